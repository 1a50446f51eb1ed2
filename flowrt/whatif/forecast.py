"""Forecast: predicted figures of a batch under other settings, beside its recorded ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from flowrt.model import ItemRecord
from flowrt.reporting.attempts import require_numpy
from flowrt.whatif.recorded_attempts import RecordedAttempts
from flowrt.whatif.replay import Replay, replay
from flowrt.whatif.scenario import Plan

__all__ = ["Figures", "Forecast", "Point", "Sweep", "forecast", "knee_of", "sweep"]

_MAX_ERROR: Final = 0.1  # a replay further off its recording gets a note


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


def forecast(attempts: RecordedAttempts, plan: Plan, *, price: float | None = None) -> Forecast:
    """Predict the figures of a batch under other settings.

    Args:
        attempts: Recorded attempts.
        plan: Settings to predict for.
        price: Price of one call.
    """
    base = recorded_plan(attempts)
    replayed = _figures(replay(attempts, base), attempts, price)
    ran = replay(attempts, plan)
    predicted = _figures(ran, attempts, price)
    recorded = recorded_figures(attempts, price)
    notes = [*attempts.notes, *plan.notes, *_doubts(attempts, plan, recorded, replayed, ran)]
    if plan != base:
        notes += _limit_notes(attempts, plan)
    return Forecast(recorded, replayed, predicted, tuple(notes))


def recorded_plan(attempts: RecordedAttempts) -> Plan:
    """The recorded settings."""
    return Plan.recorded(attempts.meta.get("settings", {}), attempts.meta.get("limits", []))


def sweep(
    attempts: RecordedAttempts,
    plan: Plan,
    setting: str,
    values: Iterable[int],
    *,
    price: float | None = None,
    on_value: Callable[[int], None] = lambda _: None,
) -> Sweep:
    """Predict the figures of a batch for several values of a setting.

    Args:
        attempts: Recorded attempts.
        plan: The other settings.
        setting: `max_concurrency` or `retries`.
        values: Values to predict for.
        price: Price of one call.
        on_value: Called with each value before its replay.
    """
    points = []
    for value in sorted(set(values)):
        on_value(value)
        changes: dict[str, Any] = {setting: value}
        ran = replay(attempts, plan.changed(**changes))
        points.append(Point(value, _figures(ran, attempts, price)))
    knee = knee_of([(p.value, p.figures.throughput) for p in points]) if setting == "max_concurrency" else None
    recorded = recorded_figures(attempts, price)
    notes = [*attempts.notes, *plan.notes]
    if setting != "max_concurrency":
        notes += _limit_notes(attempts, plan)
    return Sweep(setting, tuple(points), knee, recorded, tuple(notes))


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


def recorded_figures(attempts: RecordedAttempts, price: float | None = None) -> Figures:
    """Figures of the recorded batch, without items that an earlier run had finished.

    Args:
        attempts: Recorded attempts.
        price: Price of one call.
    """
    detail = attempts.detail
    duration, counts = detail.duration, detail.counts
    return Figures(
        makespan=detail.wall_s,
        throughput=attempts.items / detail.wall_s if detail.wall_s else 0.0,
        p50=duration.get("p50", 0.0),
        p95=duration.get("p95", 0.0),
        p99=duration.get("p99", 0.0),
        slowest=duration.get("max", 0.0),
        throttled=detail.throttled_s,
        calls=detail.attempts,
        busy=detail.busy_s,
        retried=detail.retries.get("items", 0),
        ok=counts.get("ok", 0),
        failed=counts.get("failed", 0),
        timed_out=counts.get("timed_out", 0),
        cancelled=counts.get("cancelled", 0),
        cost=None if price is None else detail.attempts * price,
    )


def _figures(ran: Replay, attempts: RecordedAttempts, price: float | None) -> Figures:
    np = require_numpy("a forecast")
    results = [item for item in ran.results if isinstance(item, ItemRecord)]
    took = np.array([item.finished_ns - item.pulled_ns for item in results if item.attempts] or [0]) / 1e9
    p50, p95, p99 = (float(q) for q in np.quantile(took, (0.5, 0.95, 0.99)))
    makespan = max(ran.results.wall_time, _min_makespan_s(attempts, ran.calls))
    status = [item.status for item in results]
    return Figures(
        makespan=makespan,
        throughput=len(results) / makespan if makespan else 0.0,
        p50=p50,
        p95=p95,
        p99=p99,
        slowest=float(took.max()),
        throttled=sum(item.rate_wait_ns for item in results) / 1e9,
        calls=ran.calls,
        busy=ran.busy_s,
        retried=sum(item.attempts - item.hedges > 1 for item in results),
        ok=status.count("ok"),
        failed=status.count("failed"),
        timed_out=status.count("timed_out"),
        cancelled=status.count("cancelled"),
        cost=None if price is None else ran.calls * price,
    )


def _min_makespan_s(attempts: RecordedAttempts, calls: int) -> float:
    """Lower bound of the makespan, in seconds: the loop's own work for that many calls, whatever the slots."""
    cpu_ns = attempts.meta.get("cpu_ns") or 0
    return float(cpu_ns) / 1e9 * calls / max(1, attempts.detail.attempts)


def _limit_notes(attempts: RecordedAttempts, plan: Plan) -> list[str]:
    if not plan.limit_as_recorded or len(attempts.meta.get("limits", [])) < 2:
        return []
    note = (
        "the recorded concurrency limit changed over time: the replay repeats its changes, even where an adaptive "
        "limit would react to the other settings; max_concurrency sets a fixed limit"
    )
    return [note]


def _doubts(attempts: RecordedAttempts, plan: Plan, recorded: Figures, replayed: Figures, ran: Replay) -> list[str]:
    doubts = []
    if recorded.makespan and abs(replayed.makespan / recorded.makespan - 1) > _MAX_ERROR:
        doubts.append(
            f"a replay under the recorded settings takes {replayed.makespan:.3g} s and not {recorded.makespan:.3g} s: "
            "something delayed the batch that the attempts' times do not show, so compare the predicted makespan with "
            "the replayed one"
        )
    if ran.results.wall_time < _min_makespan_s(attempts, ran.calls):
        doubts.append("the event loop's own work is the bottleneck at so many slots: more slots would gain nothing")
    if plan.retry is not None and not attempts.knows_retries and recorded.failed + recorded.timed_out:
        doubts.append(
            "the recording has too few retries to show how they end: further attempts are drawn from all attempts, as "
            "if each failure were chance"
        )
    if plan.hedge is not None:
        doubts.append("a hedge is assumed to take as long as any successful attempt, whatever its item")
    if ran.never_ended:
        doubts.append(f"{ran.never_ended:,} calls have no recorded end: only a time limit ends them")
    return doubts
