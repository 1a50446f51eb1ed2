"""The settings one after the other: those of the plan, or a search for where more at once gains no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from flowrt.loadtest.drive import Driver
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.step import Step
from flowrt.loadtest.usl import Scalability, fit_usl

__all__ = ["Run", "climb"]

_GAIN: Final = 1.05  # a doubling that gains less than this is one of two that end the search
_SAME: Final = 0.97  # of two settings with as much throughput the lower one is better
_LEAST_STEP_S: Final = 0.05


@dataclass(slots=True)
class Run:
    """All that was measured.

    Attributes:
        plan: What was asked for.
        steps: By setting, in rising order.
        notes: What a reader should know of how it went.
    """

    plan: Plan
    steps: dict[float, Step] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Count a pass."""
        if step.setting in self.steps:
            self.steps[step.setting].join(step)
        else:
            self.steps[step.setting] = step
            self.steps = dict(sorted(self.steps.items()))

    def within_budget(self, step: Step) -> bool:
        """Whether a setting stayed within the error and the latency budget, and was not stopped."""
        budget = self.plan.latency_budget
        if step.outcome not in ("ok", "cut") or not step.ok or step.failure_rate > self.plan.error_budget:
            return False
        if self.plan.open and step.throughput.high < 0.95 * step.setting:
            return False  # items came faster than they ended
        return budget is None or step.latencies.at(budget.percentile) <= budget.seconds

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
        sound = [step for step in self.steps.values() if step.outcome in ("ok", "cut") and step.ok]
        return fit_usl([(step.setting, step.throughput.value) for step in sound])


async def climb(driver: Driver, plan: Plan, tell: Callable[[Step], None]) -> Run:
    """Measure every setting in every pass, from the lowest to the highest; one that falls over ends its pass.

    Args:
        driver: Runs the passes.
        plan: What to measure.
        tell: Told of every pass as it ends.
    """
    run = Run(plan)
    settings = list(plan.settings)
    if plan.searches:
        step_s = min(plan.step, plan.duration / 2 / 12)  # twelve doublings are beyond any search
        await _search(driver, run, step_s, tell)
        settings = list(run.steps)
        first = 1
    else:
        step_s = min(plan.step, plan.duration / (len(settings) * plan.passes))
        first = 0
    for _ in range(first, plan.passes):
        for setting in settings:
            if setting in run.steps and run.steps[setting].outcome not in ("ok", "cut"):
                break
            if not await _measure(driver, run, setting, step_s, tell):
                break
    if driver.stop:
        run.notes.append("interrupted: what was measured until then is told")
    elif driver.started >= plan.max_requests:
        run.notes.append(f"max_requests={plan.max_requests:,} was used up")
    elif driver.left_s <= 0 and any(len(step.by_pass) < plan.passes for step in run.steps.values()):
        run.notes.append(f"duration={plan.duration:g} s was over before every pass was made")
    return run


async def _measure(driver: Driver, run: Run, setting: float, step_s: float, tell: Callable[[Step], None]) -> bool:
    """One pass at one setting; whether a higher one makes sense."""
    if driver.spent or driver.left_s < _LEAST_STEP_S:
        return False
    step = await driver.run(setting, step_s)
    tell(step)
    run.add(step)
    return step.outcome == "ok"


async def _search(driver: Driver, run: Run, step_s: float, tell: Callable[[Step], None]) -> None:
    """Double until it gains nothing or falls over, then look between."""
    most = run.plan.most_concurrency
    setting, best, idle = 1, 0.0, 0
    while idle < 2 and await _measure(driver, run, setting, step_s, tell):
        step = run.steps[setting]
        throughput = step.throughput.value
        idle = 0 if throughput > best * _GAIN else idle + 1
        best = max(best, throughput)
        if not run.within_budget(step):  # higher ones would only be further beyond it
            break
        if setting == most:
            run.notes.append(f"throughput still rose at {most:,}, which is as far as the search goes")
            break
        setting = min(setting * 2, most)
    known = sorted(run.steps)
    if run.best is None or len(known) < 2:
        return
    at = known.index(run.best.setting)
    for low, high in zip(known[max(0, at - 1) : at + 1], known[max(0, at - 1) + 1 : at + 2], strict=False):
        between = round((low * high) ** 0.5)
        if low < between < high:
            await _measure(driver, run, between, step_s, tell)
