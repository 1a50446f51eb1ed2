"""Result of a load test: its measurements, which of them are within the budgets, and which is best."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from flowrt.loadtest.measurement import Interval, Measurement, share_interval
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.usl import Scalability, fit_usl

__all__ = ["Run"]

_EQUAL: Final = 0.97  # of two settings whose throughputs differ by less, the lower one is better
_STOP_BUDGETS: Final = 5.0  # error budgets of added failures that stop a step
_STOP_SHARE: Final = 0.1  # and the least share of added failures that does
_STOP_FIRST: Final = 0.5  # the lowest setting shows how the node fails without load: it may fail more often


@dataclass(slots=True)
class Run:
    """All measurements of a load test.

    Attributes:
        plan: The plan.
        measurements: By setting, in rising order.
        notes: Remarks on how the test went.
        in_process: True if the node runs in this process, on the loop or in threads.
        step_s: Length of each setting in each pass, in seconds, unless it was stopped.
    """

    plan: Plan
    measurements: dict[float, Measurement] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    step_s: float = 0.0
    in_process: bool = True

    def add(self, measured: Measurement) -> None:
        """Add a pass. A pass that was cut short adds nothing to a setting with a complete one."""
        before = self.measurements.get(measured.setting)
        if before is None:
            self.measurements[measured.setting] = measured
            self.measurements = dict(sorted(self.measurements.items()))
        elif measured.outcome != "cut" or not before.complete:
            before.merge(measured)

    # -- budgets ---------------------------------------------------------------------------------------------------

    def background(self, setting: float) -> Interval | None:
        """Share of failures that does not depend on load; None if no lower setting was measured.

        Pools the lower settings, from the lowest on, as long as each fails no more often than those below it by more
        than the noise: a single low setting has too few items to know a rate of a few per cent.
        """
        failed = counted = 0
        for lower in self.measurements.values():
            if lower.setting >= setting or not lower.complete:
                continue
            if counted and lower.failures.low > share_interval(failed, counted).high:
                break
            failed, counted = failed + lower.failed, counted + lower.counted
        return share_interval(failed, counted) if counted else None

    def added_failures(self, measured: Measurement) -> float:
        """Share of failures that load adds: above the background, and 0 within the noise of both.

        A single setting has no background: all its failures count.
        """
        background = self.background(measured.setting)
        if background is None:
            return measured.failure_rate if self.plan.single else 0.0
        if measured.failures.low <= background.high:
            return 0.0
        return measured.failure_rate - background.value

    def stop_share(self, setting: float) -> float:
        """Share of failures beyond which a step is stopped, to spare the service."""
        added = max(_STOP_SHARE, _STOP_BUDGETS * self.plan.error_budget)
        background = self.background(setting)
        if background is None:
            return added if self.plan.single else max(_STOP_FIRST, added)
        return background.value + added

    def within_budget(self, measured: Measurement) -> bool:
        """True for a complete measurement within the error budget and the latency budget."""
        budget = self.plan.latency_budget
        if not measured.complete or self.added_failures(measured) > self.plan.error_budget:
            return False
        if not self.keeps_up(measured):
            return False
        return budget is None or measured.latencies.at(budget.percentile) <= budget.seconds

    def keeps_up(self, measured: Measurement) -> bool:
        """True if items ended as fast as they came; always true in a closed loop."""
        return not self.plan.open or not measured.drift.certain

    def clearly_over(self, measured: Measurement) -> bool:
        """True if a measurement is over a budget by more than the noise, so that higher settings would be too."""
        budget, background = self.plan.latency_budget, self.background(measured.setting)
        if background is None:
            over = self.plan.single and measured.failures.low > self.plan.error_budget
        else:
            over = measured.failures.low - background.high > self.plan.error_budget
        return over or (
            budget is not None and measured.ok > 0 and measured.latency(budget.percentile).low > budget.seconds
        )

    # -- conclusions -----------------------------------------------------------------------------------------------

    @property
    def best(self) -> Measurement | None:
        """The lowest of the settings with the most throughput within the budgets; in an open loop the highest rate."""
        good = [measured for measured in self.measurements.values() if self.within_budget(measured)]
        if not good:
            return None
        if self.plan.open:
            return good[-1]
        highest = max(measured.throughput.value for measured in good)
        return next(measured for measured in good if measured.throughput.value >= _EQUAL * highest)

    @property
    def law(self) -> Scalability | None:
        """Universal Scalability Law over the complete measurements of a closed loop; None for fewer than three."""
        if self.plan.open:
            return None
        return fit_usl([(each.setting, each.throughput.value) for each in self.measurements.values() if each.complete])
