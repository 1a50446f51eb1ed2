"""JSON encoding and decoding for callers that convert every item."""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder
from typing import Any, Final

__all__ = ["make_encoder", "scan_once", "text_of_str"]

text_of_str: Final[Callable[[str], str]] = encoder.encode_basestring_ascii
"""JSON text of a string, in ASCII and with its quotation marks."""

scan_once: Final[Callable[[str, int], tuple[Any, int]]] = getattr(json.JSONDecoder(), "scan_once")  # noqa: B009  # typeshed
"""Value that begins at an offset of a text, and the offset of its end; raises StopIteration if none begins there."""


def make_encoder(default: Callable[[Any], Any], *, allow_nan: bool) -> Callable[[Any], str]:
    """Make a function like `json.JSONEncoder(...).encode`, which costs half as much.

    It keeps one encoder, while the standard library makes one for each call. A value that contains itself raises
    RecursionError instead of ValueError.

    Args:
        default: Returns what to encode in place of a value without a JSON form.
        allow_nan: False to raise ValueError for NaN and the infinities.
    """
    slow = json.JSONEncoder(allow_nan=allow_nan, default=default, check_circular=False).encode
    make: Any = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return slow
    try:
        encode = make(None, default, text_of_str, None, ": ", ", ", False, False, allow_nan)
        if "".join(encode([1], 0)) != "[1]":
            return slow
    except TypeError:  # a Python whose encoder has other arguments
        return slow

    def text(value: Any) -> str:
        kind = type(value)
        if kind is str:
            return text_of_str(value)
        if kind is int:
            return repr(value)
        if kind is float and value - value == 0.0:  # finite
            return repr(value)
        return "".join(encode(value, 0))

    return text
