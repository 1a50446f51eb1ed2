"""Cache interface of the engine, and the JSON form of its entries."""

from __future__ import annotations

import json
from typing import Any, Protocol

__all__ = ["CacheStore", "text_of"]


class CacheStore(Protocol):
    """One batch's use of a cache."""

    def key_of(self, input_data: Any) -> bytes | None:
        """Return the key of an input, or None if JSON does not represent it exactly."""

    async def get(self, key: bytes) -> str | None:
        """Return the output under a key as JSON, or None."""

    def put(self, key: bytes, text: str) -> None:
        """Store an output."""

    async def aclose(self) -> None:
        """Write the pending outputs; raises nothing."""


def text_of(value: Any, *, sort_keys: bool = False) -> str | None:
    """Return a value as JSON, or None if JSON does not represent it exactly; a tuple would become a list."""
    try:
        text = json.dumps(value, allow_nan=False, sort_keys=sort_keys)
        return text if json.loads(text) == value else None
    except Exception:  # including an `__eq__` that raises, and a RecursionError
        return None
