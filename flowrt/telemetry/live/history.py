"""A batch's past in bounded memory: points at even distances over all of it, however long it has run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["History", "Point", "percentile"]

_MOST: Final = 480
_LEAST_S: Final = 0.4  # a look between two others, for a page that is opened, makes no point of its own


class Point(NamedTuple):
    """What was so at one time. Counts run from the batch's start, so leaving points out loses nothing but detail.

    Attributes:
        at_s: When, in seconds since the batch's start.
        completed: Items that had ended.
        failed: Of these, items that had failed or timed out.
        inflight: Items in a slot.
        limit: The concurrency limit.
        queued: Items that waited for another attempt, a rate limit or an open circuit.
        durations: How many items had ended per bucket of duration.
        bound_s: How long each cause had held the batch back, in seconds.
    """

    at_s: float
    completed: int
    failed: int
    inflight: int
    limit: int
    queued: int
    durations: tuple[int, ...]
    bound_s: tuple[float, ...]


class History:
    """Points of a batch; when there are too many, every second one goes and they come half as often from then on."""

    __slots__ = ("_every_s", "points")

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._every_s = _LEAST_S

    def add(self, point: Point) -> None:
        """Keep the point, in place of the latest where that is too near to the one before it."""
        points = self.points
        if len(points) >= 2 and points[-1].at_s - points[-2].at_s < self._every_s:
            points[-1] = point
        else:
            points.append(point)
        if len(points) > _MOST:
            self.points = [*points[:-1:2], points[-1]]
            self._every_s = 1.5 * (points[-1].at_s - points[0].at_s) / len(points)

    def since(self, seconds: float) -> Point | None:
        """The point that lies so many seconds before the latest one, or the first; None without any."""
        points = self.points
        if not points:
            return None
        from_s = points[-1].at_s - seconds
        return next((point for point in reversed(points) if point.at_s <= from_s), points[0])


def percentile(counts: Sequence[int], bounds_s: Sequence[float], q: float) -> float | None:
    """The value below which a share of the values lie, by interpolation within its bucket.

    Args:
        counts: How many values fell into each bucket; one more than there are bounds.
        bounds_s: The buckets' upper bounds, ascending, in seconds.
        q: The share, 0 to 1.

    Returns:
        Seconds; the highest bound for what lies beyond it, None without values.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank, seen = q * total, 0
    for bucket, count in enumerate(counts):
        if count and seen + count >= rank:
            if bucket == len(bounds_s):
                break
            low = bounds_s[bucket - 1] if bucket else 0.0
            return low + (bounds_s[bucket] - low) * (rank - seen) / count
        seen += count
    return bounds_s[-1]
