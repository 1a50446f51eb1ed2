"""Prefetching: how many items a worker is sent before it needs them."""

from __future__ import annotations

from typing import Final

__all__ = ["SendAhead"]

_TARGET_NS: Final = 20_000_000  # work in a worker's inbox: several times the round trip of a frame
_LEAST: Final = 2  # one runs, one is ready
_MOST: Final = 1_024
_MOST_BYTES: Final = 4_000_000
_WEIGHT: Final = 0.3  # of a new frame's mean in the moving mean


class SendAhead:
    """Window of one worker: the number of items that takes it about 20 ms, by its measured service time.

    Attributes:
        item_bytes: Moving mean of the bytes sent per item.
        service_ns: Moving mean of the service time, in nanoseconds; 0 before the first outcome.
        window: Most plain-function items that may be in the worker at once.
    """

    __slots__ = ("item_bytes", "service_ns", "window")

    def __init__(self) -> None:
        self.service_ns = 0.0
        self.item_bytes = 0.0
        self.window = _LEAST

    def record_service(self, count: int, total_ns: int) -> None:
        """Learn from items that have ended."""
        mean = total_ns / count
        self.service_ns = mean if not self.service_ns else self.service_ns + _WEIGHT * (mean - self.service_ns)
        self._resize()

    def record_sent(self, count: int, total_bytes: int) -> None:
        """Learn from a frame that was sent."""
        self.item_bytes += _WEIGHT * (total_bytes / count - self.item_bytes)
        if self.item_bytes > _MOST_BYTES / _MOST:
            self._resize()

    def _resize(self) -> None:
        if self.service_ns:
            by_bytes = _MOST_BYTES / self.item_bytes if self.item_bytes else _MOST
            self.window = int(max(_LEAST, min(_TARGET_NS / max(self.service_ns, 1.0), by_bytes, _MOST)))

    def __repr__(self) -> str:
        return f"<SendAhead: {self.window} items of {self.service_ns / 1e6:.3g} ms>"
