"""What makes a span the current one for every item, without the calls that the context API's own functions make."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar, Token, copy_context
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

__all__ = ["SPAN_KEY", "attach", "detach", "find_variable", "get_current", "reset"]

(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
"""The API's name for the span in a context, asked of the API."""

_PLAIN: Final = ("", "contextvars_context")  # values of OTEL_PYTHON_CONTEXT


def find_variable() -> ContextVar[Context] | None:
    """The variable behind the context API, found by what it holds.

    None where something else is behind it: a vendor's own does more than to set a variable, and wants to be asked.
    """
    if os.environ.get("OTEL_PYTHON_CONTEXT", "") not in _PLAIN:
        return None
    return copy_context().run(_look)


def _look() -> ContextVar[Context] | None:
    mark, before = Context(), copy_context()
    otel_context.attach(mark)
    changed = [each for each, value in copy_context().items() if each not in before or before[each] is not value]
    return changed[0] if len(changed) == 1 and changed[0].get() is mark else None


_variable: Final = find_variable()

get_current: Callable[[], Context] = otel_context.get_current if _variable is None else _variable.get
"""The current context."""
attach: Callable[[Context], Token[Context]] = otel_context.attach if _variable is None else _variable.set
"""Make a context the current one."""
reset: Callable[[Token[Context]], None] = otel_context.detach if _variable is None else _variable.reset
"""Let what was current before be so again; it may raise where `detach` does not."""


def detach(token: Token[Context]) -> None:
    """Let what was current before be so again.

    Args:
        token: What `attach` gave.
    """
    try:
        reset(token)
    except (ValueError, RuntimeError):  # of another context: the API says so in the log
        otel_context.detach(token)
