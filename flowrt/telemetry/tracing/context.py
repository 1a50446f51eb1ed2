"""Fast access to the current OpenTelemetry context: reads and sets the context variable behind the API directly."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar, Token, copy_context
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

__all__ = ["REDACT_KEY", "SPAN_KEY", "attach", "detach", "find_variable", "get_current", "reset"]

(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
"""Key of the span in a context, read from a context that the API made."""

REDACT_KEY: Final = otel_context.create_key("flowrt-redact")
"""Key of the function that redacts the texts of spans under a batch."""

_PLAIN: Final = ("", "contextvars_context")  # values of OTEL_PYTHON_CONTEXT that select the API's own context


def find_variable() -> ContextVar[Context] | None:
    """Find the context variable behind the context API by attaching a marker.

    Returns:
        The variable; None if `OTEL_PYTHON_CONTEXT` names a vendor's runtime context, which may do more than set one.
    """
    if os.environ.get("OTEL_PYTHON_CONTEXT", "") not in _PLAIN:
        return None
    return copy_context().run(_variable_that_attach_sets)


def _variable_that_attach_sets() -> ContextVar[Context] | None:
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
"""Restore the previous context. It raises in another context, where `detach` does not."""


def detach(token: Token[Context]) -> None:
    """Restore the previous context.

    Args:
        token: The token that `attach` returned.
    """
    try:
        reset(token)
    except (ValueError, RuntimeError):  # the token belongs to another context: the API logs that
        otel_context.detach(token)
