"""Runs a node at one setting for a while: a closed loop of so many at once, or an open one of so many a second."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

from flowrt._util.clock import clock_of
from flowrt.batch.processor import BatchProcessor
from flowrt.engine.timeouts import GRACE_S
from flowrt.errors import one_line
from flowrt.loadtest.measurement import SLICES, UNFINISHED, Latencies, Outcome, Step
from flowrt.loadtest.plan import Plan

__all__ = ["Driver"]

_WARM: Final = 0.1  # the share of a pass that does not count: what it starts with is not what it goes on with
_LEAST_ITEMS: Final = 20  # before that nothing is said of failures and latencies
_LEAST_TURNS: Final = 3  # a pass that was cut short tells something if every slot has had so many items
_DRAIN_S: Final = 10.0  # how long items in flight may go on after a pass, before they are cancelled
_LOOK_S: Final = 0.25  # how often it is looked whether anything moves
_FAILING: Final = 5.0  # how many times the error budget stops a step, at least
_FAILING_LEAST: Final = 0.1  # this share
_SLOW: Final = 4.0  # how many times the latency budget, or the slowest item of before where nothing ends any more
_BEHIND_S: Final = 1.0  # how late an open loop may start its items


class Driver:
    """Runs the passes one after the other, within the bounds of the plan.

    Args:
        node: What to run.
        items: Its inputs, used again from the first when they are used up.
        plan: The bounds.
        executor: Where the node runs.
        stopped: Whether somebody wants an end: the pass that runs then is cut, and none follows.

    Attributes:
        started: How many items have been started in all.
        stuck: Items of a pass went on when they were cancelled, so that a later one would not run alone.
    """

    def __init__(
        self,
        node: Any,
        items: Sequence[Any],
        plan: Plan,
        executor: Any = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.started = 0
        self.stuck = False
        self.stopped = stopped
        self._node = node
        self._items = itertools.cycle(items)
        self._plan = plan
        self._executor = executor
        self._clock = clock_of(asyncio.get_running_loop())
        self._end_ns = self._clock() + round(plan.duration * 1e9)

    @property
    def left_s(self) -> float:
        """How much of the plan's time is left, in seconds."""
        return (self._end_ns - self._clock()) / 1e9

    @property
    def left(self) -> int:
        """How many items may still be started."""
        return self._plan.max_requests - self.started

    @property
    def spent(self) -> bool:
        """Whether the time or the number of items is used up, or somebody said to stop."""
        return self.left <= 0 or self.left_s <= 0 or self.stuck or self.stopped()

    async def run(self, setting: float, step_s: float, most_items: int) -> Step:
        """One pass at one setting.

        Args:
            setting: The concurrency, or the arrival rate in items a second.
            step_s: How long, in seconds.
            most_items: After so many items it has told enough.
        """
        return await _Pass(self, setting, min(step_s, self.left_s), most_items).run()


class _Pass:
    """One setting, once.

    What counts is what happens between the end of the warm-up and the end of the pass: in a closed loop what ends then,
    in an open one what was due then, however late that ends.
    """

    def __init__(self, driver: Driver, setting: float, step_s: float, most_items: int) -> None:
        self._driver = driver
        self._plan = driver._plan  # noqa: SLF001  # of this module
        self._clock = driver._clock  # noqa: SLF001
        self._most_items = most_items
        self._step = Step(setting)
        self._warm = Step(setting)  # what does not count, unless there is nothing else
        self._begin_ns = self._last_ns = self._clock()
        self._end_ns = self._begin_ns + round(step_s * 1e9)
        self._warm_ns = self._begin_ns + round(step_s * 1e9 * _WARM)
        self._next_ns: int | None = None  # when the next item of an open loop is due
        self._due_ns: dict[int, int] = {}
        self._ends_ns = array("q")  # of the successes
        self._dues_ns = array("q")
        self._stopped_as: Outcome | None = None
        self._dry = False  # no more items may be started, before the time is over
        self._started = self._seen = self._bad = self._slow = 0
        self._limit = asyncio.timeout(None)
        self._look_timer: asyncio.TimerHandle | None = None

    async def run(self) -> Step:
        plan, driver, step = self._plan, self._driver, self._step
        loop = asyncio.get_running_loop()
        at_once = plan.most_concurrency if plan.open else int(step.setting)
        processor = BatchProcessor(
            driver._node,  # noqa: SLF001
            at_once,
            item_timeout=plan.item_timeout,
            executor=driver._executor,  # noqa: SLF001
            name="bench",
            telemetry=False,
        )
        length_s = (self._end_ns - self._clock()) / 1e9
        drain_s = min(_DRAIN_S, max(0.0, driver.left_s - length_s))
        source: Any = self._arriving() if plan.open else self._waiting()
        self._look_timer = loop.call_later(_LOOK_S, self._look)
        closing = 0.0
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
        driver.stuck = loop.time() - closing > 0.9 * GRACE_S
        self._close(full_drain=drain_s == _DRAIN_S)
        return step

    # -- what comes ------------------------------------------------------------------------------------------------

    def _next(self) -> Any:
        self._driver.started += 1
        self._started += 1
        self._step.most = max(self._step.most, self._started - self._seen)
        return next(self._driver._items)  # noqa: SLF001

    def _is_dry(self, at_ns: int) -> bool:
        """Whether no more may be started; otherwise the item that is to come at that time may be."""
        if self._started >= self._most_items or self._driver.spent:
            self._dry = True
            self._end_ns = min(self._end_ns, at_ns)
            return True
        if self._started == self._most_items // 10:  # a pass that ends early has a warm-up that does
            self._warm_ns = min(self._warm_ns, at_ns)
        return False

    def _waiting(self) -> Iterator[Any]:
        """A closed loop: an item comes when another has ended."""
        while self._stopped_as is None and (now := self._clock()) < self._end_ns and not self._is_dry(now):
            yield self._next()

    async def _arriving(self) -> AsyncIterator[Any]:
        """An open loop: items come when they are due, and late ones at once."""
        gap_ns = 1e9 / self._step.setting
        for index in itertools.count():
            due_ns = self._begin_ns + round(index * gap_ns)
            if due_ns >= self._end_ns:
                self._next_ns = None
                return
            self._next_ns = due_ns
            if (early_ns := due_ns - self._clock()) > 0:
                await asyncio.sleep(early_ns / 1e9)
            if self._stopped_as is not None or self._is_dry(due_ns):
                return
            self._due_ns[index] = due_ns
            yield self._next()

    # -- what ends -------------------------------------------------------------------------------------------------

    def _take(self, result: Any) -> None:
        if result.status == "cancelled":
            return
        finished_ns = result.finished_ns
        # a timer may ring a millisecond early, and the item is then due when it starts
        began_ns = min(self._due_ns.pop(result.index, result.pulled_ns), result.pulled_ns)
        latency_s = (finished_ns - began_ns) / 1e9
        self._last_ns = finished_ns
        self._seen += 1
        self._bad += not result.success
        self._step.slowest = max(self._step.slowest, latency_s)
        counted_ns = began_ns if self._plan.open else finished_ns
        if self._plan.open or counted_ns <= self._end_ns:
            self._count(result, latency_s, self._step if counted_ns >= self._warm_ns else self._warm)
            if self._plan.open:
                self._step.drift.add((began_ns - self._begin_ns) / 1e9, latency_s)
        if result.success:
            self._ends_ns.append(finished_ns)
            self._dues_ns.append(began_ns)
        if self._stopped_as is None and self._seen >= _LEAST_ITEMS:
            self._watch(latency_s)

    def _count(self, result: Any, latency_s: float, step: Step) -> None:
        if result.success:
            step.ok += 1
            step.latencies.add(latency_s)
        else:
            kind = result.error_type or "error"
            step.failed += 1
            step.failed_latencies.add(latency_s)
            step.errors[kind] += 1
            step.examples.setdefault(kind, one_line(result.error or kind))

    def _watch(self, latency_s: float) -> None:
        """Stop a step that is falling over: more of it would tell nothing and hurt whoever serves it."""
        plan = self._plan
        budget = plan.latency_budget
        if self._bad / self._seen > max(_FAILING_LEAST, _FAILING * plan.error_budget):
            self._end_early("failing")
        elif budget is not None and latency_s > _SLOW * budget.seconds:
            self._slow += 1
            if self._slow / self._seen > 1 - budget.percentile / 100:
                self._end_early("slow")

    def _look(self) -> None:
        """Stop a step in which nothing moves any more, which no result would tell."""
        self._look_timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)
        now = self._clock()
        if self._stopped_as is not None:
            return
        if self._next_ns is not None and now - self._next_ns > _BEHIND_S * 1e9:
            self._end_early("behind")  # so many are in flight that the next cannot even start
        elif self._seen and self._started > self._seen and now < self._end_ns:
            longest_s = max(_DRAIN_S, _SLOW * self._step.slowest)
            if now - self._last_ns > longest_s * 1e9:
                self._end_early("stalled")

    def _end_early(self, outcome: Outcome) -> None:
        self._stopped_as = outcome
        self._end_ns = min(self._end_ns, self._clock())
        latest = asyncio.get_running_loop().time() + _DRAIN_S
        if self._limit.when() is None or latest < (self._limit.when() or 0.0):
            self._limit.reschedule(latest)

    # -- at the end ------------------------------------------------------------------------------------------------

    def _close(self, *, full_drain: bool) -> None:
        step, user = self._step, self._driver.stopped()
        if not step.ok + step.failed and (self._warm.ok or self._warm.failed):
            warm, self._warm_ns = self._warm, self._begin_ns
            warm.slowest, warm.most, warm.drift = step.slowest, step.most, step.drift
            step.join(warm)
        unfinished = self._started - self._seen
        if unfinished and not user and (full_drain or self._stopped_as is not None):
            step.failed += unfinished
            step.errors[UNFINISHED] += unfinished
            step.examples[UNFINISHED] = f"it had not ended {_DRAIN_S:g} s after its step"
        if self._next_ns is not None and self._stopped_as is not None:
            step.unstarted = 1 + int((self._end_ns - self._next_ns) * step.setting / 1e9)
        step.outcome = self._outcome()
        self._tell_throughput()
        passed = Latencies()
        passed.join(step.latencies)
        step.by_pass.append(passed)

    def _outcome(self) -> Outcome:
        step = self._step
        if self._stopped_as is not None:
            return self._stopped_as
        if not self._seen:
            return "cut" if self._dry else "stalled"
        if self._dry and step.ok < max(_LEAST_ITEMS, 0 if self._plan.open else _LEAST_TURNS * step.setting):
            return "cut"
        return "ok" if step.ok + step.failed - step.errors[UNFINISHED] else "short"

    def _tell_throughput(self) -> None:
        """Successes a second: by when they ended, or in an open loop that keeps up by when they were due."""
        step = self._step
        length_ns = self._end_ns - self._warm_ns
        if length_ns <= 0 or step.outcome == "short":
            return
        times = self._dues_ns if self._plan.open and not step.drift.certain else self._ends_ns
        counts = [0] * SLICES
        for at_ns in times:
            if self._warm_ns <= at_ns < self._end_ns:
                counts[(at_ns - self._warm_ns) * SLICES // length_ns] += 1
        step.means.append(sum(counts) * 1e9 / length_ns)
        step.lengths.append(length_ns / 1e9)
        if step.outcome == "ok":  # slices of a step that was stopped tell no noise
            step.slices += [count * SLICES * 1e9 / length_ns for count in counts]
