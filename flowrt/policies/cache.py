"""Cache policy: outputs by input, in memory or in a file, so that a repeated input does not run again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from flowrt._util.validation import check_count, check_duration

__all__ = ["Cache"]

Entry = tuple[float, str]
"""When an output was stored, in seconds since 1970, and its JSON."""


class Cache:
    """Cache of outputs by input, so that a repeated input does not run again: `BatchProcessor(cache=...)`.

    An item whose input is in the cache ends `ok` with `cached` true and without an attempt, so rate limits, retries and
    the breaker do not apply to it. Among equal inputs in one batch, the first runs while the others wait for its
    output. Only successes are stored.

    The key of an item is the node's id, `version` and the input as JSON. If JSON does not represent an input or an
    output exactly, as with tuples and objects, the item runs and is not cached, and a warning is logged once. No
    pickle is read.

    Args:
        path: An SQLite file, which several processes may use; None to keep outputs in memory, in this object.
        ttl: How long an output is used, in seconds; None for ever.
        max_items: Most outputs to keep. Beyond it, memory drops the least recently used output, a file the oldest.
        version: Part of each key. Change it when the node's outputs change, for instance with a new prompt.
        clock: Returns seconds since 1970; for tests.

    Raises:
        ValueError: `ttl` is not a positive number, or `max_items` not an int of at least 1.

    Example:
        >>> import asyncio, flowrt
        >>> calls = []
        >>> async def double(x):
        ...     calls.append(x)
        ...     return 2 * x
        >>> results = asyncio.run(flowrt.map(double, [1, 2, 1, 1], cache=flowrt.Cache(ttl=3600)))
        >>> results.outputs, sorted(calls), results.report.cached
        ([2, 4, 2, 2], [1, 2], 2)
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        ttl: float | None = None,
        max_items: int = 100_000,
        version: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.ttl = check_duration("ttl", ttl)
        self.max_items = check_count("max_items", max_items)
        self.version = version
        self.clock = clock
        self._entries: dict[bytes, Entry] = {}  # the least recently used first

    @classmethod
    def of(cls, value: Any) -> Self | None:
        """Return the cache for an argument: a cache, a file's path, True for memory, None or False for none.

        Raises:
            ValueError: `value` is none of these.
        """
        if value is None or value is False or isinstance(value, cls):
            return value or None
        if value is True:
            return cls()
        if isinstance(value, (str, os.PathLike)):
            return cls(value)
        raise ValueError(f"cache must be a flowrt.Cache(...), the path of a file, or True, not {value!r}")

    def get(self, key: bytes) -> str | None:
        """Return the output in memory under a key, as JSON, or None."""
        entry = self._entries.pop(key, None)
        if entry is None or self.is_old(entry[0]):
            return None
        self._entries[key] = entry
        return entry[1]

    def put(self, key: bytes, text: str) -> None:
        """Keep an output in memory."""
        entries = self._entries
        entries.pop(key, None)
        entries[key] = (self.clock(), text)
        while len(entries) > self.max_items:
            entries.pop(next(iter(entries)), None)

    def is_old(self, stored_s: float) -> bool:
        """True if an output that was stored at this time is older than `ttl`."""
        return self.ttl is not None and self.clock() - stored_s >= self.ttl

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        where = "memory" if self.path is None else str(self.path)
        return f"<Cache in {where}: ttl={self.ttl}, max_items={self.max_items}, version={self.version!r}>"
