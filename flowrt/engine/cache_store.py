"""Cache interface of the engine, and the JSON form of its entries."""

from __future__ import annotations

import json
from typing import Any, Protocol

__all__ = ["CacheStore", "text_of"]


class CacheStore(Protocol):
    """One batch's use of a cache."""

    def key_of(self, input_data: Any) -> bytes | None:
        """The key of an input; None if JSON does not represent it exactly."""

    async def get(self, key: bytes) -> str | None:
        """The output under a key, as JSON, or None."""

    def put(self, key: bytes, text: str) -> None:
        """Store an output."""

    async def aclose(self) -> None:
        """Write what is left; raises nothing."""


def text_of(value: Any, *, sort_keys: bool = False) -> str | None:
    """A value as JSON, or None if JSON does not represent it exactly: a tuple, for instance, would become a list."""
    try:
        text = json.dumps(value, allow_nan=False, sort_keys=sort_keys)
        return text if json.loads(text) == value else None
    except Exception:  # also of an `__eq__`, or of too deep nesting
        return None
