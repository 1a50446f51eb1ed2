"""Lists the public API as text: every exported name with its signature, methods and attributes.

`make docs` writes it to tests/public_api.txt and a test compares the two, so that a change shows in a diff. Annotations
are left out, as they change without breaking a caller.
"""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import flowrt
import flowrt.errors

__all__ = ["describe"]

MODULES: Final = (flowrt, flowrt.errors)


def describe() -> str:
    """The public API, one line per name."""
    lines: list[str] = []
    for module in MODULES:
        for name in sorted(module.__all__):
            if not name.startswith("__"):
                lines += _describe(f"{module.__name__}.{name}", getattr(module, name))
    return "\n".join([*lines, ""])


def _describe(path: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        known = {*flowrt.__all__, *flowrt.errors.__all__, *dir(builtins)} - {"object"}
        bases = [base.__name__ for base in value.__bases__ if base.__name__ in known]
        yield f"class {path}{_signature(value)}" + (f" is a {', '.join(bases)}" if bases else "")
        for name in sorted({name for base in value.__mro__[:-1] if _ours(base) for name in vars(base)}):
            if not name.startswith("_"):
                called = getattr(value, name)
                yield f"    {name}" + (_signature(called) if callable(called) and not inspect.isclass(called) else "")
    elif callable(value):
        yield f"{path}{_signature(value)}"
    else:
        yield path


def _ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "flowrt"


def _signature(function: Any) -> str:
    """Names, kinds and defaults of the parameters."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    parameters = [
        p.replace(annotation=p.empty, default=_Sorted(p.default) if isinstance(p.default, frozenset) else p.default)
        for p in signature.parameters.values()
        if not p.name.startswith("_")
    ]
    text = str(signature.replace(parameters=parameters, return_annotation=signature.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


class _Sorted(frozenset[Any]):
    """Default value that is shown in order, the same in every process."""

    def __repr__(self) -> str:
        return "{" + ", ".join(map(repr, sorted(self))) + "}"
