"""Search: measures the settings of a plan one after another, or doubles the concurrency until it gains nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from flowrt.loadtest.load_generator import LoadGenerator
from flowrt.loadtest.measurement import Measurement
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.run import Run

__all__ = ["search"]

_GAIN: Final = 1.05  # two doublings in a row that gain less end the search
_BETWEEN: Final = 2  # settings that a search tries between the doubled ones
_MIN_STEP_S: Final = 0.05
_MIN_TURNS: Final = 5  # items of each slot, if there are enough for all steps

OnMeasured = Callable[[Measurement], None]


async def search(generator: LoadGenerator, run: Run, on_measured: OnMeasured) -> None:
    """Measure every setting in every pass, from the lowest to the highest; an overloaded step ends its pass.

    Args:
        generator: Runs the passes.
        run: Holds the plan, and takes each measurement as it ends.
        on_measured: Called with the measurement of each pass.
    """
    plan = run.plan
    settings = list(plan.settings)
    count = _max_settings(plan)
    run.step_s = min(plan.step, plan.duration / (count * plan.passes))
    if run.step_s < 0.9 * plan.step:
        enough = math.ceil(plan.step * count * plan.passes)
        run.notes.append(
            f"each step took {run.step_s:.3g} s instead of --step {plan.step:g}, so that all of them fit into "
            f"--duration {plan.duration:g}: pass --duration {enough}"
        )
    steps = _Steps(generator, run, on_measured, max(1, plan.max_requests // (count * plan.passes)))
    first = 0
    if plan.searches:
        await steps.double()
        settings, first = list(run.measurements), 1
    for _ in range(first, plan.passes):
        for setting in settings:
            if setting in run.measurements and run.measurements[setting].outcome not in ("ok", "cut"):
                break
            if not await steps.measure(setting):
                break
    _note_end(generator, run, steps)


def _max_settings(plan: Plan) -> int:
    """Settings of the plan, or the most that a search may try."""
    if not plan.searches:
        return len(plan.settings)
    return math.ceil(math.log2(plan.most_concurrency)) + 1 + _BETWEEN


def _note_end(generator: LoadGenerator, run: Run, steps: _Steps) -> None:
    plan = run.plan
    left = [setting for setting in plan.settings if setting not in run.measurements]
    missing = f"; not measured: {', '.join(f'{each:g}' for each in left)}" if left else ""
    if steps.shortened:
        run.notes.append(
            f"steps ended before their time, so that --max-requests {plan.max_requests} is enough for all of them: "
            "raise it for longer ones"
        )
    if generator.stopped():
        run.notes.append(f"interrupted: the figures are those measured until then{missing}")
    elif generator.stuck:
        run.notes.append(f"ended early: items went on after their cancellation and would disturb later steps{missing}")
    elif generator.left <= 0:
        run.notes.append(f"--max-requests {plan.max_requests} was used up: raise it to measure all of it{missing}")
    elif generator.left_s <= _MIN_STEP_S and (
        left or any(len(each.latencies_by_pass) < plan.passes for each in run.measurements.values())
    ):
        run.notes.append(f"--duration {plan.duration:g} was over before every pass was made: raise it{missing}")


class _Steps:
    """Measures one setting after another.

    Args:
        generator: Runs the passes.
        run: Takes the measurements.
        on_measured: Called with each measurement.
        share: Items of each step, so that --max-requests is enough for all steps.

    Attributes:
        shortened: True if a step used up its items before its time.
    """

    def __init__(self, generator: LoadGenerator, run: Run, on_measured: OnMeasured, share: int) -> None:
        self.shortened = False
        self._generator = generator
        self._run = run
        self._on_measured = on_measured
        self._share = share

    async def measure(self, setting: float) -> bool:
        """Run one pass at a setting. Returns True if a higher setting makes sense."""
        generator, run = self._generator, self._run
        if generator.spent or generator.left_s < _MIN_STEP_S:
            return False
        max_items = max(self._share, math.ceil(_MIN_TURNS * setting))
        before = generator.started
        measured = await generator.run(setting, run.step_s, max_items, run.stop_share(setting))
        self.shortened |= generator.started - before >= max_items and measured.outcome == "ok"
        self._on_measured(measured)
        run.add(measured)
        return measured.outcome == "ok"

    async def double(self) -> None:
        """Double the concurrency until it gains nothing or overloads the node, then try settings around the best."""
        run = self._run
        highest = run.plan.most_concurrency
        setting, best, idle = 1, 0.0, 0
        while await self.measure(setting):
            measured = run.measurements[setting]
            throughput = measured.throughput.value
            idle = 0 if throughput > best * _GAIN else idle + 1
            best = max(best, throughput)
            if idle == 2 or run.clearly_over(measured):
                break
            if setting == highest:
                if not idle:
                    run.notes.append(
                        f"throughput still rose at {highest}, the highest that --most-concurrency {highest} allows: "
                        "raise it"
                    )
                break
            setting = min(setting * 2, highest)
        known = sorted(run.measurements)
        if run.best is None or len(known) < 2:
            return
        at = known.index(run.best.setting)
        near = zip(known[max(0, at - 1) : at + 1], known[max(0, at - 1) + 1 : at + 2], strict=False)
        for low, high in list(near)[:_BETWEEN]:
            between = round((low * high) ** 0.5)
            if low < between < high:
                await self.measure(between)
