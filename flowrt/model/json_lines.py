"""Result as one line of JSON, whatever values the node put into it.

Values without a form in JSON are converted: a dataclass to an object of its fields; a set, tuple or deque to a list; a
datetime, date or time to its ISO text; a Decimal, UUID, Path or timedelta to its text; an Enum member to its value if
that is a string, else to its name; bytes to their base64; NaN and the infinities to null; objects with `model_dump()`
(pydantic) or `tolist()` (numpy) to its result; and any other object to its `repr`. Text is escaped to ASCII, so a lone
surrogate survives.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from flowrt._util.json_text import make_encoder
from flowrt.model import BatchResult

__all__ = ["encode_result", "text_of_result"]


def encode_result(result: BatchResult) -> bytes:
    """Return one result as a line of JSON with its line break, in ASCII.

    Args:
        result: A finished item.
    """
    return text_of_result(result).encode("ascii")


def text_of_result(result: BatchResult) -> str:
    """Return the line of `encode_result` as text."""
    try:
        return _line(result, _strict(result.output))
    except Exception:  # NaN, a cycle, a key that is no string, nesting too deep, a value whose methods raise
        try:
            return _line(result, _strict(_plain(result.output, ())))
        except Exception:
            return _line(result, _strict(_repr(result.output)))


def _line(result: BatchResult, output: str) -> str:
    if result.status == "ok" and result._sparse is None:  # noqa: SLF001  # as most items: no error, one attempt
        return (
            f'{{"index": {result.index}, "success": true, "status": "ok", "output": {output}, "error": null, '
            f'"error_type": null, "attempts": {result.attempts}, "execution_time": {result.execution_time!r}}}\n'
        )
    error, error_type = result.error, result.error_type
    return (
        f'{{"index": {result.index:d}, "success": {"true" if result.success else "false"}, '
        f'"status": "{result.status}", "output": {output}, "error": {"null" if error is None else _strict(error)}, '
        f'"error_type": {"null" if error_type is None else _strict(error_type)}, "attempts": {result.attempts:d}, '
        f'"execution_time": {_strict(result.execution_time)}}}\n'
    )


def _default(value: Any) -> Any:
    """Convert a value that JSON does not support to a value that it does."""
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID, PurePath, timedelta)):
        return str(value)
    if isinstance(value, Enum):
        return value.value if isinstance(value.value, str) else value.name
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, type):
        return _repr(value)
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Set, deque)):
        return _in_order(value)
    if callable(getattr(value, "model_dump", None)):
        return value.model_dump(mode="json")
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    return _repr(value)


_strict = make_encoder(_default, allow_nan=False)


def _plain(value: Any, above: tuple[int, ...]) -> Any:
    """Return the value converted to dicts, lists, strings, finite numbers, booleans and None."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return _int(value)
    if id(value) in above:
        return f"<a {type(value).__name__} that holds itself>"
    within = (*above, id(value))
    if isinstance(value, dict):
        return {_key(key): _plain(item, within) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, within) for item in value]
    try:
        replaced = _default(value)
    except Exception:
        return _repr(value)
    return _plain(replaced, within)


def _int(value: int) -> int | str:
    try:
        str(value)
    except ValueError:  # more digits than Python converts
        return hex(value)
    return value


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (bool, int)):
        return _strict(_plain(key, ())).strip('"')
    replaced = _default(key) if not isinstance(key, (float, tuple)) else repr(key)
    return replaced if isinstance(replaced, str) else _repr(key)


def _in_order(values: Set[Any] | deque[Any]) -> list[Any]:
    """Return the members of a set in a stable order, and the elements of a deque in theirs."""
    members = list(values)
    if isinstance(values, Set):
        try:
            members.sort()
        except TypeError:
            members.sort(key=_repr)
    return members


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as broken:  # a repr that cannot be made must not take the item's line with it
        return f"<{type(value).__name__} whose repr raised {type(broken).__name__}>"
