"""Runs a node at one setting for a while: a closed loop of so many at once, or an open one of so many a second."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

from flowrt.batch import BatchProcessor
from flowrt.engine.clock import clock_of
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.step import SLICES, Latencies, Step

__all__ = ["Driver"]

_WARM: Final = 0.1  # the share of a pass that does not count: what it starts with is not what it goes on with
_LEAST_ITEMS: Final = 20  # before that nothing is said of failures and latencies
_DRAIN_S: Final = 10.0  # how long items in flight may go on after a pass, before they are cancelled
_FAILING: Final = 5.0  # how many times the error budget stops a step, at least
_FAILING_LEAST: Final = 0.1  # this share
_SLOW: Final = 4.0  # how many times the latency budget
_BEHIND_S: Final = 1.0  # how late an open loop may start its items


class Driver:
    """Runs the passes one after the other, within the bounds of the plan.

    Args:
        node: What to run.
        items: Its inputs, used again from the first when they are used up.
        plan: The bounds.
        executor: Where the node runs.

    Attributes:
        started: How many items have been started in all.
        stop: Set to end the pass that runs now, and those to come.
    """

    def __init__(self, node: Any, items: Sequence[Any], plan: Plan, executor: Any = None) -> None:
        self.started = 0
        self.stop = False
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
    def spent(self) -> bool:
        """Whether the time or the number of items is used up, or somebody said to stop."""
        return self.stop or self.left_s <= 0 or self.started >= self._plan.max_requests

    async def run(self, setting: float, step_s: float) -> Step:
        """One pass at one setting.

        Args:
            setting: The concurrency, or the arrival rate in items a second.
            step_s: How long, in seconds.
        """
        return await _Pass(self, setting, min(step_s, self.left_s)).run()


class _Pass:
    """One setting, once."""

    def __init__(self, driver: Driver, setting: float, step_s: float) -> None:
        self._driver = driver
        self._plan = driver._plan  # noqa: SLF001  # of this module
        self._clock = driver._clock  # noqa: SLF001
        self._step = Step(setting)
        self._warm = Step(setting)  # what does not count, unless there is nothing else
        self._begin_ns = self._clock()
        self._end_ns = self._begin_ns + round(step_s * 1e9)
        self._warm_ns = self._begin_ns + round(step_s * 1e9 * _WARM)
        self._due_ns: dict[int, int] = {}
        self._counts: list[int] = [0] * SLICES
        self._over = False
        self._seen = self._bad = 0

    async def run(self) -> Step:
        plan, driver, step = self._plan, self._driver, self._step
        at_once = plan.most_concurrency if plan.open else int(step.setting)
        drain_s = min(_DRAIN_S, max(0.0, driver.left_s - (self._end_ns - self._clock()) / 1e9))
        processor = BatchProcessor(
            driver._node,  # noqa: SLF001
            at_once,
            item_timeout=plan.item_timeout,
            batch_timeout=(self._end_ns - self._clock()) / 1e9 + drain_s + 1e-3,
            executor=driver._executor,  # noqa: SLF001
            name="bench",
            telemetry=False,
        )
        source: Any = self._arriving() if plan.open else self._waiting()
        async with processor.batch_as_completed(source) as results:
            async for result in results:
                self._take(result)
        self._close()
        return step

    # -- what comes ------------------------------------------------------------------------------------------------

    def _next(self) -> Any:
        self._driver.started += 1
        return next(self._driver._items)  # noqa: SLF001

    def _ended(self) -> bool:
        return self._over or self._driver.spent

    def _waiting(self) -> Iterator[Any]:
        """A closed loop: an item comes when another has ended."""
        while not self._ended() and self._clock() < self._end_ns:
            yield self._next()

    async def _arriving(self) -> AsyncIterator[Any]:
        """An open loop: items come when they are due, and late ones at once."""
        gap_ns = 1e9 / self._step.setting
        for index in itertools.count():
            due_ns = self._begin_ns + round(index * gap_ns)
            if due_ns >= self._end_ns:
                return
            if (early_ns := due_ns - self._clock()) > 0:
                await asyncio.sleep(early_ns / 1e9)
            if self._ended():
                return
            if -early_ns > _BEHIND_S * 1e9:  # so many are in flight that the next cannot even start
                self._end_early("behind")
                return
            self._due_ns[index] = due_ns
            yield self._next()

    # -- what ends -------------------------------------------------------------------------------------------------

    def _take(self, result: Any) -> None:
        finished_ns = result.finished_ns
        began_ns = self._due_ns.pop(result.index, result.pulled_ns)
        if result.status == "cancelled":
            return
        self._seen += 1
        self._bad += not result.success
        # a closed loop counts what ends within the time, an open one what was due in it, however late that ends
        counted_ns = began_ns if self._plan.open else finished_ns
        if self._plan.open or counted_ns <= self._end_ns:
            step = self._step if counted_ns >= self._warm_ns else self._warm
            if result.success:
                step.ok += 1
                step.latencies.add((finished_ns - began_ns) / 1e9)
            else:
                step.failed += 1
                step.errors[result.error_type or "error"] += 1
        if result.success and self._warm_ns <= finished_ns < self._end_ns:
            self._counts[(finished_ns - self._warm_ns) * SLICES // (self._end_ns - self._warm_ns)] += 1
        if not self._over and self._seen >= _LEAST_ITEMS:
            self._watch()

    def _watch(self) -> None:
        """Stop a step that is falling over: more of it would tell nothing and hurt whoever serves it."""
        plan = self._plan
        if self._bad / self._seen > max(_FAILING_LEAST, _FAILING * plan.error_budget):
            self._end_early("failing")
        elif plan.latency_budget is not None and self._seen % _LEAST_ITEMS == 0:
            latencies = self._step.latencies
            if latencies.count >= _LEAST_ITEMS and latencies.at(plan.percentile) > _SLOW * plan.latency_budget.seconds:
                self._end_early("slow")

    def _end_early(self, outcome: Any) -> None:
        self._over = True
        self._step.outcome = outcome
        self._end_ns = min(self._end_ns, self._clock())

    def _close(self) -> None:
        step = self._step
        end_ns = min(self._end_ns, self._clock())
        if self._driver.spent and not self._over and self._clock() < self._end_ns:
            step.outcome = "cut"
        if not self._seen:
            step.outcome = "stalled"
        if self._over and not step.ok + step.failed:
            step.join(self._warm)
        length_s = (end_ns - self._warm_ns) / 1e9
        ended = sum(self._counts)
        if length_s > 0 and ended:
            step.means.append(ended / length_s)
            # slices of a step that was stopped are of no even length: their mean alone is told
            whole = step.outcome == "ok"
            step.slices += [count * SLICES / length_s for count in self._counts] if whole else step.means[-1:]
        passed = Latencies()
        passed.join(step.latencies)
        step.by_pass.append(passed)
