"""Formats log events as text, one line per event whatever the values hold."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from flowrt._util.json_text import make_encoder

__all__ = ["add_extra", "console_renderer", "json_line", "one_line_values", "order_keys", "plain_value", "utc_now"]

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
        depth: Depth at which the value is nested. Beyond 8, only the name of its type is returned.
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


_encode: Final = make_encoder(_text, allow_nan=False)

_latest_second: tuple[int, str] = (0, "1970-01-01T00:00:00")  # and its text


def utc_now() -> str:
    """Time as structlog's TimeStamper writes it: in UTC, with microseconds unless there are none."""
    global _latest_second  # noqa: PLW0603  # replaced as a whole, since any thread may log
    second, micros = divmod(time.time_ns() // 1_000, 1_000_000)
    latest, text = _latest_second
    if second != latest:
        text = datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")
        _latest_second = second, text
    return f"{text}.{micros:06d}Z" if micros else f"{text}Z"


def console_renderer(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    """Structlog renderer for terminals.

    Args:
        colors: True if the stream is a terminal.
    """
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
