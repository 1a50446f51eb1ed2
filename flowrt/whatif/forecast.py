"""What a batch would come to under other settings, beside what it came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from flowrt.model import ItemRecord
from flowrt.reporting.attempts import require_numpy
from flowrt.whatif.recorded_attempts import Tape
from flowrt.whatif.replay import Replay, replay
from flowrt.whatif.scenario import Plan

__all__ = ["Figures", "Forecast", "Point", "Sweep", "forecast", "knee_of", "sweep"]

_OFF: Final = 0.1  # a replay that misses what it replays by more than this is said to


@dataclass(frozen=True, slots=True)
class Figures:
    """What a batch came to, or would come to. Times are in seconds.

    Attributes:
        makespan: How long it took.
        throughput: Items per second.
        p50: The median of an item's time from being pulled to its end.
        p95: Its 95th percentile.
        p99: Its 99th percentile.
        slowest: The longest.
        throttled: What items waited for rate limits, in all.
        calls: How often the node was called.
        busy: For how long, in all.
        retried: Items that were tried again.
        ok: Items that ended ok.
        failed: Items that failed.
        timed_out: Items that timed out.
        cancelled: Items that were cancelled.
        cost: Calls by their price, where one was given.
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
    """A replay's figures beside the recorded ones.

    Attributes:
        recorded: What the batch came to.
        replayed: What a replay under the recorded settings comes to: how far a replay can be trusted.
        predicted: What it would come to.
        notes: What that rests on.
    """

    recorded: Figures
    replayed: Figures
    predicted: Figures
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a setting and what it would come to."""

    value: int
    figures: Figures


@dataclass(frozen=True, slots=True)
class Sweep:
    """A setting's values and what each would come to.

    Attributes:
        setting: Its name.
        points: In rising order.
        knee: The value beyond which more gains little, or None where there is none.
        forecast: That of the recorded settings, for comparison.
    """

    setting: str
    points: tuple[Point, ...]
    knee: int | None
    recorded: Figures
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def forecast(tape: Tape, plan: Plan, *, price: float | None = None) -> Forecast:
    """Predict what a batch would come to.

    Args:
        tape: The recording.
        plan: The settings.
        price: Of one call.
    """
    base = recorded_plan(tape)
    replayed = _figures(replay(tape, base), tape, price)
    ran = replay(tape, plan)
    predicted = _figures(ran, tape, price)
    recorded = recorded_figures(tape, price)
    notes = [*tape.notes, *plan.notes, *_doubts(tape, plan, recorded, replayed, ran)]
    if plan != base:
        notes += _limit_notes(tape, plan)
    return Forecast(recorded, replayed, predicted, tuple(notes))


def recorded_plan(tape: Tape) -> Plan:
    """The settings of the recording."""
    return Plan.recorded(tape.meta.get("settings", {}), tape.meta.get("limits", []))


def sweep(
    tape: Tape,
    plan: Plan,
    setting: str,
    values: Iterable[int],
    *,
    price: float | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> Sweep:
    """Predict what a batch would come to at several values of a setting.

    Args:
        tape: The recording.
        plan: The other settings.
        setting: `max_concurrency` or `retries`.
        values: To be tried.
        price: Of one call.
        told: Called with each value before it is tried.
    """
    points = []
    for value in sorted(set(values)):
        told(value)
        changes: dict[str, Any] = {setting: value}
        ran = replay(tape, plan.changed(**changes))
        points.append(Point(value, _figures(ran, tape, price)))
    knee = knee_of([(p.value, p.figures.throughput) for p in points]) if setting == "max_concurrency" else None
    recorded = recorded_figures(tape, price)
    notes = [*tape.notes, *plan.notes]
    if setting != "max_concurrency":
        notes += _limit_notes(tape, plan)
    return Sweep(setting, tuple(points), knee, recorded, tuple(notes))


def knee_of(curve: list[tuple[int, float]]) -> int | None:
    """Where a rising curve turns flat: the point that is highest above the line between its ends.

    Args:
        curve: Values and what they give, in rising order of the values.

    Returns:
        The value, or None where the curve is straight or there are fewer than 3 points.
    """
    if len(curve) < 3:
        return None
    best = max(y for _, y in curve)
    end = next(at for at, (_, y) in enumerate(curve) if y >= 0.98 * best)  # beyond it there is nothing to gain
    if end == 0:
        return curve[0][0]
    (x0, y0), (x1, y1) = curve[0], curve[min(len(curve) - 1, end + 1)]
    if x1 == x0 or y1 <= y0:
        return None
    height = [(y - y0) / (y1 - y0) - (x - x0) / (x1 - x0) for x, y in curve[: end + 2]]
    top = max(height)
    return curve[height.index(top)][0] if top > 0.05 else None


def recorded_figures(tape: Tape, price: float | None = None) -> Figures:
    """What the recorded batch came to, without what an earlier run had finished.

    Args:
        tape: The recording.
        price: Of one call.
    """
    detail = tape.detail
    duration, counts = detail.duration, detail.counts
    return Figures(
        makespan=detail.wall_s,
        throughput=tape.items / detail.wall_s if detail.wall_s else 0.0,
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


def _figures(ran: Replay, tape: Tape, price: float | None) -> Figures:
    np = require_numpy("a forecast")
    results = [item for item in ran.results if isinstance(item, ItemRecord)]
    took = np.array([item.finished_ns - item.pulled_ns for item in results if item.attempts] or [0]) / 1e9
    p50, p95, p99 = (float(q) for q in np.quantile(took, (0.5, 0.95, 0.99)))
    makespan = max(ran.results.wall_time, _least_s(tape, ran.calls))
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


def _least_s(tape: Tape, calls: int) -> float:
    """The loop's own work: that many calls cannot be made in less, however many slots there are."""
    cpu_ns = tape.meta.get("cpu_ns") or 0
    return float(cpu_ns) / 1e9 * calls / max(1, tape.detail.attempts)


def _limit_notes(tape: Tape, plan: Plan) -> list[str]:
    if not plan.limit_as_recorded or len(tape.meta.get("limits", [])) < 2:
        return []
    moves = (
        "the recorded concurrency limit moved: it changes when it changed then, whatever an adaptive limit would make "
        "of the other settings; max_concurrency gives a fixed one"
    )
    return [moves]


def _doubts(tape: Tape, plan: Plan, recorded: Figures, replayed: Figures, ran: Replay) -> list[str]:
    doubts = []
    if recorded.makespan and abs(replayed.makespan / recorded.makespan - 1) > _OFF:
        doubts.append(
            f"a replay under the recorded settings takes {replayed.makespan:.3g} s and not {recorded.makespan:.3g} s: "
            "something held the batch back that attempts' times do not show, so take the ratio of the two forecasts"
        )
    if ran.results.wall_time < _least_s(tape, ran.calls):
        doubts.append("with so many slots the event loop's own work is what binds: more of them would give nothing")
    if plan.retry is not None and not tape.knows_retries and recorded.failed + recorded.timed_out:
        doubts.append(
            "the recording does not show how items fare when they are tried again: further attempts are drawn from all "
            "attempts, as if each failure were a matter of chance"
        )
    if plan.hedge is not None:
        doubts.append("a hedge is assumed to fare like any attempt that went well, whatever its item")
    if ran.never_ended:
        doubts.append(f"{ran.never_ended:,} calls were recorded as never ending, and end only by a time limit")
    return doubts
