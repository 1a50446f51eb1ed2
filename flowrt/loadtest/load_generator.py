"""Load generator: runs a node at one setting for a while, in a closed loop (concurrency) or an open one (rate)."""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

from flowrt._util.clock import clock_of
from flowrt.batch.processor import BatchProcessor
from flowrt.engine.timeouts import GRACE_S
from flowrt.errors import one_line
from flowrt.loadtest.measurement import SLICES, UNFINISHED, Latencies, Measurement, Outcome, share_interval
from flowrt.loadtest.plan import Plan
from flowrt.telemetry.redaction import redact

__all__ = ["LoadGenerator"]

_WARM_UP: Final = 0.1  # share of a pass that does not count: caches, connections and pools fill in it
_MIN_ITEMS: Final = 20  # fewer say nothing about failures and latencies
_MIN_TURNS: Final = 3  # items of each slot that make a pass that was cut short worth counting
_DRAIN_S: Final = 10.0  # for items in flight after a pass; then they are cancelled
_LOOK_S: Final = 0.25  # between two checks for a standstill
_SLOW: Final = 4.0  # latency budgets, or latencies of the slowest item, after which an item is far too slow
_BEHIND_S: Final = 1.0  # how late an open loop may start its items


class LoadGenerator:
    """Runs passes one after another, within the bounds of the plan.

    Args:
        node: The node under load.
        items: Its inputs, used in a cycle.
        plan: The bounds.
        executor: Where the node runs.
        stopped: True once the user wants the test to end: the pass that runs is cut, and no other follows.

    Attributes:
        started: Items started so far.
        stuck: True if items of a pass survived their cancellation: another pass would not run alone.
    """

    def __init__(
        self,
        node: Any,
        items: Sequence[Any],
        plan: Plan,
        executor: Any = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.node = node
        self.plan = plan
        self.executor = executor
        self.stopped = stopped
        self.clock = clock_of(asyncio.get_running_loop())
        self.started = 0
        self.stuck = False
        self._items = itertools.cycle(items)
        self._end_ns = self.clock() + round(plan.duration * 1e9)

    @property
    def left_s(self) -> float:
        """Seconds left of the plan's duration."""
        return (self._end_ns - self.clock()) / 1e9

    @property
    def left(self) -> int:
        """Items that may still be started."""
        return self.plan.max_requests - self.started

    @property
    def spent(self) -> bool:
        """True if no more items may be started."""
        return self.left <= 0 or self.left_s <= 0 or self.stuck or self.stopped()

    def next_item(self) -> Any:
        """The next input; counts it as started."""
        self.started += 1
        return next(self._items)

    async def run(self, setting: float, step_s: float, max_items: int, stop_share: float) -> Measurement:
        """Run one pass at one setting.

        Args:
            setting: Concurrency, or arrival rate in items a second.
            step_s: Length of the pass, in seconds.
            max_items: Items after which the pass has measured enough.
            stop_share: Share of failures that stops the pass.
        """
        return await _Pass(self, setting, min(step_s, self.left_s), max_items, stop_share).run()


class _Pass:
    """One setting, once.

    Counts what happens between the end of the warm-up and the end of the pass: in a closed loop items that end in that
    time, in an open loop items that are due in it, however late they end.
    """

    def __init__(
        self, generator: LoadGenerator, setting: float, step_s: float, max_items: int, stop_share: float
    ) -> None:
        self._generator = generator
        self._plan = generator.plan
        self._clock = generator.clock
        self._max_items = max_items
        self._stop_share = stop_share
        self._measured = Measurement(setting)
        self._warm_up = Measurement(setting)  # does not count, unless no item ends after it
        self._begin_ns = self._last_ns = self._clock()
        self._end_ns = self._begin_ns + round(step_s * 1e9)
        self._warm_ns = self._begin_ns + round(step_s * 1e9 * _WARM_UP)
        self._next_ns: int | None = None  # when the next item of an open loop is due
        self._due_ns: dict[int, int] = {}
        self._ends_ns = array("q")  # of the successes
        self._dues_ns = array("q")
        self._stopped_as: Outcome | None = None
        self._exhausted = False  # no more items may be started, before the time is over
        self._started = self._ended = self._failed = self._too_slow = 0
        self._limit = asyncio.timeout(None)
        self._look_timer: asyncio.TimerHandle | None = None

    async def run(self) -> Measurement:
        plan, generator = self._plan, self._generator
        loop = asyncio.get_running_loop()
        processor = BatchProcessor(
            generator.node,
            plan.most_concurrency if plan.open else int(self._measured.setting),
            item_timeout=plan.item_timeout,
            executor=generator.executor,
            name="bench",
            telemetry=False,
        )
        length_s = (self._end_ns - self._clock()) / 1e9
        drain_s = min(_DRAIN_S, max(0.0, generator.left_s - length_s))
        source: Any = self._arriving() if plan.open else self._refilling()
        self._look_timer = loop.call_later(_LOOK_S, self._look)
        closing, cpu_s = 0.0, time.process_time()
        try:
            async with asyncio.timeout(length_s + drain_s) as self._limit:
                async with processor.batch_as_completed(source) as results:
                    async for result in results:
                        self._take(result)
                    closing = loop.time()
        except TimeoutError:
            if not self._limit.expired():
                raise
            closing = self._limit.when() or 0.0
        finally:
            self._look_timer.cancel()
            self._measured.cpu_s = time.process_time() - cpu_s
            self._measured.wall_s = (self._clock() - self._begin_ns) / 1e9
            self._measured.items = self._ended
        # the batch gives cancelled items a grace before it abandons them: closing as long means that some went on
        generator.stuck = loop.time() - closing > 0.9 * GRACE_S
        self._close(full_drain=drain_s == _DRAIN_S)
        return self._measured

    # -- items that start ------------------------------------------------------------------------------------------

    def _next(self) -> Any:
        self._started += 1
        measured = self._measured
        measured.max_in_flight = max(measured.max_in_flight, self._started - self._ended)
        return self._generator.next_item()

    def _is_exhausted(self, at_ns: int) -> bool:
        """True if no more items may be started; else the item due at that time may."""
        if self._started >= self._max_items or self._generator.spent:
            self._exhausted = True
            self._end_ns = min(self._end_ns, at_ns)
            return True
        if self._started == self._max_items // 10:  # a pass that ends early has a warm-up that ends early
            self._warm_ns = min(self._warm_ns, at_ns)
        return False

    def _refilling(self) -> Iterator[Any]:
        """Inputs of a closed loop: an item comes when a slot is free."""
        while self._stopped_as is None and (now := self._clock()) < self._end_ns and not self._is_exhausted(now):
            yield self._next()

    async def _arriving(self) -> AsyncIterator[Any]:
        """Inputs of an open loop: items come when they are due, and late ones at once."""
        gap_ns = 1e9 / self._measured.setting
        for index in itertools.count():
            due_ns = self._begin_ns + round(index * gap_ns)
            if due_ns >= self._end_ns:
                self._next_ns = None
                return
            self._next_ns = due_ns
            if (early_ns := due_ns - self._clock()) > 0:
                await asyncio.sleep(early_ns / 1e9)
            if self._stopped_as is not None or self._is_exhausted(due_ns):
                return
            self._due_ns[index] = due_ns
            yield self._next()

    # -- items that end --------------------------------------------------------------------------------------------

    def _take(self, result: Any) -> None:
        if result.status == "cancelled":
            return
        finished_ns = result.finished_ns
        # a timer may fire a millisecond early: the item is then due when it starts
        began_ns = min(self._due_ns.pop(result.index, result.pulled_ns), result.pulled_ns)
        latency_s = (finished_ns - began_ns) / 1e9
        measured = self._measured
        self._last_ns = finished_ns
        self._ended += 1
        self._failed += not result.success
        measured.slowest = max(measured.slowest, latency_s)
        counted_ns = began_ns if self._plan.open else finished_ns
        if self._plan.open or counted_ns <= self._end_ns:
            self._count(result, latency_s, measured if counted_ns >= self._warm_ns else self._warm_up)
            if self._plan.open:
                measured.drift.add((began_ns - self._begin_ns) / 1e9, latency_s)
        if result.success:
            self._ends_ns.append(finished_ns)
            self._dues_ns.append(began_ns)
        if self._stopped_as is None and self._ended >= _MIN_ITEMS:
            self._watch(latency_s)

    def _count(self, result: Any, latency_s: float, measured: Measurement) -> None:
        if result.success:
            measured.ok += 1
            measured.latencies.add(latency_s)
        else:
            kind = result.error_type or "error"
            measured.failed += 1
            measured.failed_latencies.add(latency_s)
            measured.errors[kind] += 1
            measured.examples.setdefault(kind, one_line(redact(result.error or kind)))

    def _watch(self, latency_s: float) -> None:
        """Stop a pass that overloads the node: going on would measure nothing new and hurt the service."""
        budget = self._plan.latency_budget
        if self._failed > self._stop_share * self._ended and self._fails_too_often():
            self._stop("failing")
        elif budget is not None and latency_s > _SLOW * budget.seconds:
            self._too_slow += 1
            if self._too_slow / self._ended > 1 - budget.percentile / 100:
                self._stop("slow")

    def _fails_too_often(self) -> bool:
        # beyond the noise: at 20 items, three failures are no 15 %
        return share_interval(self._failed, self._ended).low > self._stop_share

    def _look(self) -> None:
        """Stop a pass at a standstill, which `_watch` cannot see: no item ends. A timer calls it again and again."""
        self._look_timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)
        now = self._clock()
        if self._stopped_as is not None:
            return
        if self._next_ns is not None and now - self._next_ns > _BEHIND_S * 1e9:
            self._stop("behind")  # every permit is taken, and the next item cannot start
        elif self._ended and self._started > self._ended and now < self._end_ns:
            longest_s = max(_DRAIN_S, _SLOW * self._measured.slowest)
            if now - self._last_ns > longest_s * 1e9:
                self._stop("stalled")

    def _stop(self, outcome: Outcome) -> None:
        self._stopped_as = outcome
        self._end_ns = min(self._end_ns, self._clock())
        latest = asyncio.get_running_loop().time() + _DRAIN_S
        if self._limit.when() is None or latest < (self._limit.when() or 0.0):
            self._limit.reschedule(latest)

    # -- at the end ------------------------------------------------------------------------------------------------

    def _close(self, *, full_drain: bool) -> None:
        measured, interrupted = self._measured, self._generator.stopped()
        if not measured.counted and self._warm_up.counted:
            warm_up, self._warm_ns = self._warm_up, self._begin_ns
            warm_up.slowest, warm_up.max_in_flight = measured.slowest, measured.max_in_flight
            warm_up.drift = measured.drift
            measured.merge(warm_up)
        unfinished = self._started - self._ended
        if unfinished and not interrupted and (full_drain or self._stopped_as is not None):
            measured.failed += unfinished
            measured.errors[UNFINISHED] += unfinished
            measured.examples[UNFINISHED] = f"still running {_DRAIN_S:g} s after its step"
        if self._next_ns is not None and self._stopped_as is not None:
            measured.unstarted = 1 + int((self._end_ns - self._next_ns) * measured.setting / 1e9)
        measured.outcome = self._outcome()
        self._add_throughput()
        latencies = Latencies()
        latencies.merge(measured.latencies)
        measured.latencies_by_pass.append(latencies)

    def _outcome(self) -> Outcome:
        measured = self._measured
        if self._stopped_as is not None:
            return self._stopped_as
        if not self._ended:
            return "cut" if self._exhausted else "stalled"
        if self._exhausted:
            enough = max(_MIN_ITEMS, 0 if self._plan.open else _MIN_TURNS * measured.setting)
            if measured.ok < enough:
                return "cut"
        return "ok" if measured.counted - measured.errors[UNFINISHED] else "short"

    def _add_throughput(self) -> None:
        """Add successes a second: by when they ended, or in an open loop that keeps up by when they were due."""
        measured = self._measured
        length_ns = self._end_ns - self._warm_ns
        if length_ns <= 0 or measured.outcome == "short":
            return
        times = self._dues_ns if self._plan.open and not measured.drift.certain else self._ends_ns
        counts = [0] * SLICES
        for at_ns in times:
            if self._warm_ns <= at_ns < self._end_ns:
                counts[(at_ns - self._warm_ns) * SLICES // length_ns] += 1
        measured.pass_rates.append(sum(counts) * 1e9 / length_ns)
        measured.pass_lengths_s.append(length_ns / 1e9)
        if measured.outcome == "ok":  # slices of a pass that was stopped do not show the noise of its setting
            measured.slices += [count * SLICES * 1e9 / length_ns for count in counts]
