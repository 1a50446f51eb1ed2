"""History of a batch in bounded memory: evenly spaced points over its whole life, however long it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["WINDOW_S", "History", "Point", "percentile"]

WINDOW_S: Final = 10.0
"""Window of the current figures: rate, latency, share of failures, in seconds."""

_MAX_POINTS: Final = 480
_MIN_STEP_S: Final = 0.4  # below the sampling interval, so an extra sample for a new page adds no point


class Point(NamedTuple):
    """Sample of a batch. Its counts are cumulative, so dropping points loses resolution only.

    Attributes:
        at_s: Time of the sample, in seconds since the batch's start.
        completed: Items that had ended.
        failed: Of these, items that had failed or timed out.
        inflight: Items in a slot.
        limit: The concurrency limit.
        queued: Items that waited for another attempt, a rate limit or an open circuit.
        durations: Items that had ended, by bucket of duration.
        bound_s: Time charged to each cause of the ledger, in seconds.
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
    """Points of a batch. At the limit every second point is dropped, and the step between points doubles.

    The points of the last seconds are kept in addition, so that the window stays sharp however long the batch runs.
    """

    __slots__ = ("_step_s", "_window", "points")

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._step_s = _MIN_STEP_S
        self._window: deque[Point] = deque()

    def add(self, point: Point) -> None:
        """Append the point; replace the latest one if that is closer to its predecessor than one step."""
        points = self.points
        if len(points) >= 2 and points[-1].at_s - points[-2].at_s < self._step_s:
            points[-1] = point
        else:
            points.append(point)
        if len(points) > _MAX_POINTS:
            self.points = [*points[:-1:2], points[-1]]
            self._step_s = 1.5 * (points[-1].at_s - points[0].at_s) / len(points)
        window = self._window
        if len(window) >= 2 and window[-1].at_s - window[-2].at_s < _MIN_STEP_S:
            window[-1] = point
        else:
            window.append(point)
        while len(window) > 1 and window[1].at_s <= point.at_s - WINDOW_S:
            window.popleft()

    def window_start(self) -> Point | None:
        """Return the latest point that is at least `WINDOW_S` older than the last one; None if there is none."""
        window = self._window
        return window[0] if window and window[0].at_s <= window[-1].at_s - WINDOW_S else None


def percentile(counts: Sequence[int], bounds_s: Sequence[float], q: float) -> float | None:
    """Return the q-quantile of a histogram, interpolated within its bucket.

    Args:
        counts: Number of values per bucket; one more bucket than there are bounds.
        bounds_s: Upper bounds of the buckets, ascending, in seconds.
        q: The quantile, 0 to 1.

    Returns:
        The value in seconds; the highest bound for values beyond it; None if there are no values.
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
