"""Forecast: predicted figures of a batch under other settings, beside its recorded ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from random import Random
from typing import Any, Final

from flowrt.batch.processor import BatchProcessor
from flowrt.batch.results import BatchResults
from flowrt.model import ItemRecord
from flowrt.reporting.attempts import require_numpy
from flowrt.whatif.figures import Figures, Forecast, Point, Sweep, knee_of
from flowrt.whatif.recorded_attempts import RecordedAttempts
from flowrt.whatif.replay import ReplayedError, ReplayNode
from flowrt.whatif.scenario import Plan
from flowrt.whatif.virtual_clock_loop import run_virtual

__all__ = ["forecast", "recorded_figures", "recorded_plan", "sweep"]

_MAX_ERROR: Final = 0.1  # a replay further off its recording gets a note
_SEED: Final = 20_240_229


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
        doubts.append("the event loop's own work is the bottleneck at this many slots: more would gain nothing")
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


# -- replay -----------------------------------------------------------------------------------------------------------


class Replay:
    """Result of a replay.

    Attributes:
        results: Results of the items.
        calls: Calls of the node.
        busy_s: Total time in calls, in seconds.
        never_ended: Calls whose end the recording does not show.
    """

    __slots__ = ("busy_s", "calls", "never_ended", "results")

    def __init__(self, results: BatchResults, node: ReplayNode) -> None:
        self.results = results
        self.calls = node.calls
        self.busy_s = node.busy_s
        self.never_ended = node.never_ended


def replay(recorded: RecordedAttempts, plan: Plan) -> Replay:
    """Replay recorded attempts.

    Args:
        recorded: The attempts.
        plan: Settings of the replay.
    """
    return run_virtual(_run(recorded, plan))


async def _run(recorded: RecordedAttempts, plan: Plan) -> Replay:
    rng = Random(_SEED)  # noqa: S311  # the same draws each time are the point
    node = ReplayNode(recorded, rng)
    limits = recorded.meta.get("limits", []) if plan.limit_as_recorded else []
    processor = BatchProcessor(
        node,
        limits[0][1] if limits else plan.max_concurrency,
        item_timeout=plan.item_timeout,
        batch_timeout=plan.batch_timeout,
        retry=plan.retry_policy(rng, wanted=_retried(recorded)),
        rate_limit=plan.rate_limits(),
        hedge=plan.hedge,
        telemetry=False,
    )
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(at_ns / 1e9, processor.set_max_concurrency, limit) for at_ns, limit in limits[1:]]
    source: Any = _delayed(recorded) if recorded.delays else range(recorded.items)
    results = await processor.batch(source)
    for timer in timers:
        timer.cancel()
    return Replay(results, node)


async def _delayed(recorded: RecordedAttempts) -> AsyncIterator[int]:
    for place, delay_s in enumerate(recorded.delays):
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        yield place


def _retried(recorded: RecordedAttempts) -> Any:
    """Predicate of the failures that the recorded policy retried; None if it had no policy."""
    if recorded.meta.get("settings", {}).get("retry") is None:
        return None
    retried = recorded.retried
    return lambda exc: not isinstance(exc, ReplayedError) or retried.get(exc.cause, False)
