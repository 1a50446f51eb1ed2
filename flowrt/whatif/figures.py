"""Figures of one replay, of a forecast beside its recording, and of a sweep over a setting."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Figures", "Forecast", "Point", "Sweep", "knee_of"]


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a batch, recorded or predicted. Times are in seconds.

    Attributes:
        makespan: Duration of the batch.
        throughput: Items a second.
        p50: Median of the items' times from pull to end.
        p95: 95th percentile of those times.
        p99: 99th percentile of those times.
        slowest: Longest of those times.
        throttled: Total wait for rate limits.
        calls: Calls of the node.
        busy: Total time in calls.
        retried: Items with retries.
        ok: Items that succeeded.
        failed: Items that failed.
        timed_out: Items that timed out.
        cancelled: Items that were cancelled.
        cost: Calls times their price; None without a price.
    """

    makespan: float
    throughput: float
    p50: float
    p95: float
    p99: float
    slowest: float
    throttled: float
    calls: int
    busy: float
    retried: int
    ok: int
    failed: int
    timed_out: int
    cancelled: int
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted figures beside the recorded ones.

    Attributes:
        recorded: Figures of the recorded batch.
        replayed: Figures of a replay under the recorded settings: their distance from `recorded` is the replay's error.
        predicted: Figures under the other settings.
        notes: Assumptions behind the forecast.
    """

    recorded: Figures
    replayed: Figures
    predicted: Figures
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as a dict, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a setting, and the predicted figures.

    Attributes:
        value: The value.
        figures: The figures.
    """

    value: int
    figures: Figures


@dataclass(frozen=True, slots=True)
class Sweep:
    """Predicted figures over the values of a setting.

    Attributes:
        setting: Name of the setting.
        points: Values in rising order, each with its figures.
        knee: Value beyond which more gains little; None if there is none.
        recorded: Figures of the recorded batch.
        notes: Assumptions behind the forecasts.
    """

    setting: str
    points: tuple[Point, ...]
    knee: int | None
    recorded: Figures
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as a dict, for JSON."""
        return asdict(self)


def knee_of(curve: list[tuple[int, float]]) -> int | None:
    """Knee of a rising curve: the point highest above the line between its ends.

    Args:
        curve: Pairs of a value and its gain, in rising order of the values.

    Returns:
        The value at the knee; None for a straight curve or fewer than 3 points.
    """
    if len(curve) < 3:
        return None
    best = max(y for _, y in curve)
    end = next(at for at, (_, y) in enumerate(curve) if y >= 0.98 * best)  # the curve is flat beyond
    if end == 0:
        return curve[0][0]
    (x0, y0), (x1, y1) = curve[0], curve[min(len(curve) - 1, end + 1)]
    if x1 == x0 or y1 <= y0:
        return None
    height = [(y - y0) / (y1 - y0) - (x - x0) / (x1 - x0) for x, y in curve[: end + 2]]
    top = max(height)
    return curve[height.index(top)][0] if top > 0.05 else None
