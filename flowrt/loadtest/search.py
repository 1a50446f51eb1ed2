"""The settings one after the other: those of the plan, or a search for where more at once gains no more."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from flowrt.loadtest.load_generator import Driver
from flowrt.loadtest.measurement import Step, share_interval
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.usl import Scalability, fit_usl

__all__ = ["Run", "climb"]

_GAIN: Final = 1.05  # a doubling that gains less than this is one of two that end the search
_SAME: Final = 0.97  # of two settings with as much throughput the lower one is better
_BETWEEN: Final = 2  # settings that a search tries between those that it doubled
_LEAST_STEP_S: Final = 0.05
_TURNS: Final = 5  # items for each slot, at least, where there are enough for all steps


@dataclass(slots=True)
class Run:
    """All that was measured.

    Attributes:
        plan: What was asked for.
        steps: By setting, in rising order.
        notes: What a reader should know of how it went.
        step_s: How long each setting was measured in each pass, in seconds, unless it was stopped.
    """

    plan: Plan
    steps: dict[float, Step] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    step_s: float = 0.0

    def add(self, step: Step) -> None:
        """Count a pass; one that was cut short says nothing that an earlier whole one has not."""
        before = self.steps.get(step.setting)
        if before is None:
            self.steps[step.setting] = step
            self.steps = dict(sorted(self.steps.items()))
        elif step.outcome != "cut" or not before.sound:
            before.join(step)

    def within_budget(self, step: Step) -> bool:
        """Whether a setting was measured to its end and stayed within the error and the latency budget."""
        budget = self.plan.latency_budget
        if not step.sound or step.failure_rate > self.plan.error_budget or not self.keeps_up(step):
            return False
        return budget is None or step.latencies.at(budget.percentile) <= budget.seconds

    def keeps_up(self, step: Step) -> bool:
        """Whether items ended as fast as they came; in a closed loop they come no faster."""
        return not self.plan.open or not step.drift.certain

    def clearly_over(self, step: Step) -> bool:
        """Whether a setting is over a budget by more than the noise, so that a higher one would be, too."""
        budget = self.plan.latency_budget
        failures = share_interval(step.failed, step.ok + step.failed)
        if failures.low > self.plan.error_budget:
            return True
        return budget is not None and step.ok > 0 and step.latency(budget.percentile).low > budget.seconds

    @property
    def best(self) -> Step | None:
        """The best setting: most throughput within the budgets, and of those that are as good the lowest."""
        good = [step for step in self.steps.values() if self.within_budget(step)]
        if not good:
            return None
        most = max(step.throughput.value for step in good)
        if self.plan.open:
            return good[-1]
        return next(step for step in good if step.throughput.value >= _SAME * most)

    @property
    def law(self) -> Scalability | None:
        """The Universal Scalability Law over the concurrencies that did not fall over; None where they are too few."""
        if self.plan.open:
            return None
        sound = [step for step in self.steps.values() if step.sound]
        return fit_usl([(step.setting, step.throughput.value) for step in sound])


async def climb(driver: Driver, run: Run, tell: Callable[[Step], None]) -> None:
    """Measure every setting in every pass, from the lowest to the highest; one that falls over ends its pass.

    Args:
        driver: Runs the passes.
        run: Has the plan, and takes what was measured as it comes.
        tell: Told of every pass as it ends.
    """
    plan = run.plan
    settings = list(plan.settings)
    many = _settings_at_most(plan)
    run.step_s = min(plan.step, plan.duration / (many * plan.passes))
    if run.step_s < 0.9 * plan.step:
        enough = math.ceil(plan.step * many * plan.passes)
        run.notes.append(
            f"each step took {run.step_s:.3g} s instead of --step {plan.step:g}, so that all of them fit into "
            f"--duration {plan.duration:g}: pass --duration {enough}"
        )
    climber = _Climber(driver, run, tell, max(1, plan.max_requests // (many * plan.passes)))
    first = 0
    if plan.searches:
        await climber.search()
        settings, first = list(run.steps), 1
    for _ in range(first, plan.passes):
        for setting in settings:
            if setting in run.steps and run.steps[setting].outcome not in ("ok", "cut"):
                break
            if not await climber.measure(setting):
                break
    _note_end(driver, run, climber)


def _settings_at_most(plan: Plan) -> int:
    """How many settings there are, or may be tried."""
    if not plan.searches:
        return len(plan.settings)
    return math.ceil(math.log2(plan.most_concurrency)) + 1 + _BETWEEN


def _note_end(driver: Driver, run: Run, climber: _Climber) -> None:
    plan = run.plan
    left = [setting for setting in plan.settings if setting not in run.steps]
    missing = f"; not measured: {', '.join(f'{each:g}' for each in left)}" if left else ""
    if climber.shorter:
        run.notes.append(
            f"steps ended before their time, so that --max-requests {plan.max_requests} is enough for all of them: "
            "raise it for longer ones"
        )
    if driver.stopped():
        run.notes.append(f"interrupted: what was measured until then is told{missing}")
    elif driver.stuck:
        run.notes.append(
            f"ended early: items went on when they were cancelled, beside what would have been measured next{missing}"
        )
    elif driver.left <= 0:
        run.notes.append(f"--max-requests {plan.max_requests} was used up: raise it to measure all of it{missing}")
    elif driver.left_s <= _LEAST_STEP_S and (left or any(len(s.by_pass) < plan.passes for s in run.steps.values())):
        run.notes.append(f"--duration {plan.duration:g} was over before every pass was made: raise it{missing}")


class _Climber:
    """Goes from one setting to the next."""

    def __init__(self, driver: Driver, run: Run, tell: Callable[[Step], None], share: int) -> None:
        self.shorter = False
        self._driver = driver
        self._run = run
        self._tell = tell
        self._share = share

    async def measure(self, setting: float) -> bool:
        """One pass at one setting; whether a higher one makes sense."""
        driver, run = self._driver, self._run
        if driver.spent or driver.left_s < _LEAST_STEP_S:
            return False
        most_items = max(self._share, math.ceil(_TURNS * setting))
        before = driver.started
        step = await driver.run(setting, run.step_s, most_items)
        self.shorter |= driver.started - before >= most_items and step.outcome == "ok"
        self._tell(step)
        run.add(step)
        return step.outcome == "ok"

    async def search(self) -> None:
        """Double until it gains nothing or falls over, then look between."""
        run = self._run
        most = run.plan.most_concurrency
        setting, best, idle = 1, 0.0, 0
        while await self.measure(setting):
            step = run.steps[setting]
            throughput = step.throughput.value
            idle = 0 if throughput > best * _GAIN else idle + 1
            best = max(best, throughput)
            if idle == 2 or run.clearly_over(step):
                break
            if setting == most:
                if not idle:
                    run.notes.append(
                        f"throughput still rose at {most}, which is as far as --most-concurrency {most} goes: raise it"
                    )
                break
            setting = min(setting * 2, most)
        known = sorted(run.steps)
        if run.best is None or len(known) < 2:
            return
        at = known.index(run.best.setting)
        near = zip(known[max(0, at - 1) : at + 1], known[max(0, at - 1) + 1 : at + 2], strict=False)
        for low, high in list(near)[:_BETWEEN]:
            between = round((low * high) ** 0.5)
            if low < between < high:
                await self.measure(between)
