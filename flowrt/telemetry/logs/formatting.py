"""Formats log events as text, one line per event whatever the values hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

import structlog

__all__ = ["add_extra", "console_renderer", "json_line", "one_line_values", "order_keys", "plain_value"]

_FIRST: Final = ("timestamp", "level", "event")
_TRACEBACKS: Final = ("exception", "stack")
_RESERVED: Final = frozenset({*_FIRST, "logger"})
_extra_of: Final = structlog.stdlib.ExtraAdder()
_DEEPEST: Final = 8
_WIDEST_BITS: Final = 1_024  # Python refuses to convert integers of more than 4,300 digits to decimal


def order_keys(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: puts time, level and event first."""
    head = {key: event[key] for key in _FIRST if key in event}
    return {**head, **event}


def add_extra(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: adds the `extra` of a standard log record. It cannot replace the record's own fields."""
    for key, value in _extra_of(logger, method, {"_record": event.get("_record")}).items():
        if key != "_record":
            event[f"extra_{key}" if key in _RESERVED else key] = value
    return event


def json_line(_logger: Any, _method: str, event: Mapping[str, Any]) -> str:
    """Structlog renderer: the event as one line of ASCII JSON that every parser accepts."""
    try:
        return _encode(event)
    except (TypeError, ValueError, RecursionError):  # a key, a NaN or a cycle that JSON cannot represent
        return json.dumps(plain_value(event), allow_nan=False)


def one_line_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: escapes characters that would break a terminal's line, except in tracebacks."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = value if key in _TRACEBACKS else _visible(value)
        elif value is not None and not isinstance(value, (bool, float)):
            event[key] = _visible(_text(value))
    return event


def _visible(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _text(value: Any) -> str:
    """The value's repr, or its type's name if `repr` raises."""
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def plain_value(value: Any, depth: int = 0) -> Any:
    """The value in types that JSON can represent.

    Args:
        value: Any value.
        depth: How deep in another value it is; below a depth of 8 there are only names of types.
    """
    if isinstance(value, int) and value.bit_length() > _WIDEST_BITS:
        return hex(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth >= _DEEPEST:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else _text(key): plain_value(item, depth + 1) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain_value(item, depth + 1) for item in value]
    return _text(value)


def _make_encode() -> Callable[[Any], str]:
    """Make the function that encodes as JSON; `json.dumps` and `JSONEncoder.encode` make an encoder for every line."""
    encoder = json.JSONEncoder(allow_nan=False, default=_text)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without the module in C
        return encoder.encode
    escape = json.encoder.encode_basestring_ascii
    # the first argument would find cycles, which here end in a RecursionError; the last refuses NaN and infinity
    parts = make(None, _text, escape, None, encoder.key_separator, encoder.item_separator, False, False, False)
    return lambda event: "".join(parts(event, 0))


_encode: Final = _make_encode()


def console_renderer(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    """Structlog renderer for terminals.

    Args:
        colors: True if the stream is a terminal.
    """
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
