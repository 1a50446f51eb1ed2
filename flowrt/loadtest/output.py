"""Output of a load test: JSON, and lines of text for a terminal."""

from __future__ import annotations

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from flowrt._util.cores import usable_cores
from flowrt._version import __version__
from flowrt.attribution.processes_gain import advise_processes, processes_gain
from flowrt.errors import one_line
from flowrt.loadtest.comparison import Change, Verdict
from flowrt.loadtest.measurement import OUTCOMES, Interval, Latencies, Measurement
from flowrt.loadtest.run import Run
from flowrt.loadtest.usl import COEFFICIENTS

__all__ = ["about", "as_json", "conclusions", "environment", "header", "milliseconds", "row", "verdict_lines"]

_PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)
_SHOWN: Final = (50.0, 95.0, 99.0)
_CORE_FULL: Final = 0.8  # of a core's time, from which on the node computes more than it waits
_MAX_ERROR_TYPES: Final = 5
_MAX_EXAMPLE: Final = 200  # characters of a message
_SIGNS: Final = {
    "better": "better than the baseline",
    "worse": "worse than the baseline",
    "same": "no change beyond the noise",
}


def about(run: Run, node: str, source: str, executor: str) -> dict[str, Any]:
    """Return node, input and settings of a run: a comparison names those in which two runs differ.

    Args:
        run: The run.
        node: The node, as `MODULE:NODE`.
        source: The input's name.
        executor: Where the node ran.
    """
    return {
        "node": node,
        "input": source,
        "executor": executor,
        "step": run.step_s,
        "item_timeout": run.plan.item_timeout,
    }


def environment() -> dict[str, str]:
    """Versions, machine and time of a run, for JSON and page."""
    return {
        "flowrt": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


# -- JSON --------------------------------------------------------------------------------------------------------------


def as_json(run: Run, of: Mapping[str, Any], verdict: Verdict | None = None) -> dict[str, Any]:
    """Everything about a run, for other programs and for a later comparison.

    Args:
        run: The run.
        of: Its node, input and settings, from `about`.
        verdict: Comparison with a baseline, if there is one.
    """
    plan, law, best = run.plan, run.law, run.best
    return {
        **environment(),
        "node": of["node"],
        "input": of["input"],
        "executor": of["executor"],
        "mode": "open" if plan.open else "closed",
        "plan": {**asdict(plan), "latency_budget": None if plan.latency_budget is None else str(plan.latency_budget)},
        "step_s": run.step_s,
        "steps": [_measurement(run, measured) for measured in run.measurements.values()],
        "law": None
        if law is None
        else {**asdict(law), "peak": _finite(law.peak), "knee": _finite(law.knee), "trusted": law.trusted},
        "best": None if best is None else best.setting,
        "notes": run.notes,
        "verdict": None if verdict is None else _verdict(verdict),
    }


def _measurement(run: Run, measured: Measurement) -> dict[str, Any]:
    percentiles = dict.fromkeys((*_PERCENTILES, run.plan.percentile))
    passes = zip(measured.pass_rates, measured.pass_lengths_s, strict=True)
    return {
        "setting": measured.setting,
        "outcome": measured.outcome,
        "within_budget": run.within_budget(measured),
        "keeps_up": run.keeps_up(measured),
        "ok": measured.ok,
        "failed": measured.failed,
        "added_failures": run.added_failures(measured),
        "unstarted": measured.unstarted,
        "most_in_flight": measured.max_in_flight,
        "errors": {
            kind: {"count": count, "example": measured.examples.get(kind)} for kind, count in measured.errors.items()
        },
        "throughput": measured.throughput.as_json(),
        "passes": [{"items_s": rate, "seconds": length_s} for rate, length_s in passes],
        "slices": measured.slices,
        "latency_s": {
            **{f"p{each:g}": measured.latency(each).as_json() for each in percentiles},
            "mean": measured.latencies.mean,
            "max": measured.latencies.longest,
        },
        "failed_latency_s": _summary(measured.failed_latencies),
        "latencies": measured.latencies.encode(),
    }


def _summary(latencies: Latencies) -> dict[str, float] | None:
    if not latencies.count:
        return None
    return {**{f"p{each:g}": latencies.at(each) for each in _SHOWN}, "mean": latencies.mean, "max": latencies.longest}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "sign": verdict.sign,
        "changes": [
            {
                "setting": change.setting,
                "what": change.what,
                "sign": change.sign,
                **{
                    name: each.as_json() if isinstance(each, Interval) else each
                    for name, each in (("before", change.before), ("now", change.now))
                },
            }
            for change in verdict.changes
        ],
        "notes": list(verdict.notes),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# -- table -------------------------------------------------------------------------------------------------------------


def header(run: Run) -> list[str]:
    """Column heads of the table."""
    first = "arrive/s" if run.plan.open else "at once"
    return [first, "items/s", "±", *(f"p{each:g}" for each in _shown(run)), "max", "failed", ""]


def _shown(run: Run) -> list[float]:
    return sorted({*_SHOWN, run.plan.percentile})


def row(run: Run, measured: Measurement) -> list[str]:
    """One row of the table: the figures of a setting and the remarks on it."""
    throughput, latencies = measured.throughput, measured.latencies
    known = throughput.known and throughput.value
    noise = f"{(throughput.high - throughput.low) / 2 / throughput.value:.0%}" if known else "-"
    seconds = [*(latencies.at(each) for each in _shown(run)), latencies.longest]
    times = [milliseconds(each) for each in seconds] if measured.ok else ["-"] * len(seconds)
    figures = [f"{measured.setting:g}", f"{throughput.value:,.1f}", noise, *times, f"{measured.failure_rate:.1%}"]
    return [*figures, ", ".join(_remarks(run, measured))]


def _remarks(run: Run, measured: Measurement) -> Iterator[str]:
    law = run.law
    if OUTCOMES[measured.outcome]:
        yield OUTCOMES[measured.outcome]
    elif run.best is measured:
        yield "best"
    elif not run.keeps_up(measured):
        yield "over: items came faster than they ended"
    elif not run.within_budget(measured):
        yield "over the budget"
    if law is not None and law.trusted and measured is _nearest(run, law.knee):
        yield "knee"


def _nearest(run: Run, setting: float) -> Measurement | None:
    if not run.measurements or setting > max(run.measurements):
        return None
    return min(run.measurements.values(), key=lambda each: abs(math.log(each.setting / setting)))


def milliseconds(seconds: float) -> str:
    """A latency with its unit: seconds from one second on, else milliseconds."""
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1e3:,.1f} ms"


# -- conclusions -------------------------------------------------------------------------------------------------------


def conclusions(run: Run) -> Iterator[str]:
    """Conclusions of a run, one a line, the best setting first."""
    best, plan = run.best, run.plan
    within = f"within the budget ({', '.join(_budgets(run))})"
    if best is None:
        yield f"no setting stayed {within}"
    elif plan.open:
        latency = milliseconds(best.latency(plan.percentile).value)
        yield f"best: {best.setting:g} items a second is the highest rate {within}, p{plan.percentile:g} {latency}"
    else:
        yield (
            f"best: {best.setting:g} at once gives {best.throughput.value:,.1f} items a second {within}, "
            f"p{plan.percentile:g} {milliseconds(best.latency(plan.percentile).value)}"
        )
    yield from _background(run)
    yield from _law(run)
    yield from _computing(run)
    for measured in run.measurements.values():
        yield from _problems(run, measured)
    yield from _failures(run)
    yield from run.notes


def _budgets(run: Run) -> Iterator[str]:
    plan = run.plan
    if plan.single:
        yield f"at most {plan.error_budget:.2%} failed"
    else:
        yield f"load makes at most {plan.error_budget:.2%} fail"
    if plan.latency_budget is not None:
        yield str(plan.latency_budget)


def _background(run: Run) -> Iterator[str]:
    """Failures that would exceed the budget if they grew with load."""
    background = run.background(math.inf)
    if run.plan.single or background is None or background.value <= run.plan.error_budget:
        return
    lowest = _setting(run, next(iter(run.measurements.values())))
    yield (
        f"failures: {background.value:.1%} fail at low load too (from {lowest} on): the node or its service fails, "
        "not the load, so they do not count against the budget"
    )


def _law(run: Run) -> Iterator[str]:
    law = run.law
    if law is None:
        return
    yield (
        f"Universal Scalability Law: {law.rate:,.2f} items a second one at a time, contention {law.contention:.2%}, "
        f"coherency {law.coherency:.4%}; it is off by {law.error:.1%}"
    )
    highest = max(run.measurements)
    if not law.trusted:
        why = (
            f"{law.points} settings fit any model"
            if law.points <= COEFFICIENTS
            else f"the model fits badly ({law.error * 100:.0f} % off)"
        )
        yield f"No knee: {why}. Try more settings."
        return
    for name, setting, beyond in (
        ("knee", law.knee, "latency grows faster than throughput"),
        ("peak", law.peak, "throughput falls"),
    ):
        if setting <= highest:
            yield f"{name}: at about {setting:,.0f} at once; beyond, {beyond}"
        elif setting <= 1.5 * highest:
            yield f"{name}: at about {setting:,.0f} at once, if the law holds beyond the highest setting"
        elif name == "knee":
            yield f"knee: none up to {highest:g} at once"


def _computing(run: Run) -> Iterator[str]:
    """The setting with the most throughput if it kept a core busy, with what worker processes would gain."""
    measured = max(run.measurements.values(), key=lambda each: each.throughput.value, default=None)
    if measured is None or not run.in_process or measured.cpu_s <= _CORE_FULL * measured.wall_s:
        return
    at_once = measured.max_in_flight if run.plan.open else int(measured.setting)
    workers = min(usable_cores(), at_once)
    gain = processes_gain(round(measured.cpu_s * 1e9), round(measured.wall_s * 1e9), measured.items, workers)
    advice = advise_processes(gain, workers, "--executor processes")
    yield f"computing: {_setting(run, measured)} kept {measured.cpu_s / measured.wall_s:.1f} cores busy: {advice}"


def _setting(run: Run, measured: Measurement) -> str:
    return f"{measured.setting:g}/s" if run.plan.open else f"{measured.setting:g} at once"


def _problems(run: Run, measured: Measurement) -> Iterator[str]:
    what = _setting(run, measured)
    if measured.outcome == "short":
        enough = math.ceil(4 * measured.slowest)
        yield f"{what}: too short a step, as an item took {measured.slowest:.1f} s: pass --step {enough} or more"
    if measured.unstarted:
        yield (
            f"{what}: {measured.unstarted:,} items were due and could not start: {measured.max_in_flight:,} were in "
            "flight"
        )


def _failures(run: Run) -> Iterator[str]:
    """The most frequent error types, with their settings and an example."""
    kinds = sum((each.errors for each in run.measurements.values()), Counter[str]())
    for kind, count in kinds.most_common(_MAX_ERROR_TYPES):
        its = [each for each in run.measurements.values() if each.errors[kind]]
        settings = ", ".join(f"{each.errors[kind]:,} at {each.setting:g}" for each in its)
        example = next((each.examples[kind] for each in its if each.examples.get(kind)), "")
        instance = f", for instance: {example[:_MAX_EXAMPLE]}" if example else ""
        yield f"failed: {count:,} {one_line(kind)} ({settings}){instance}"


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """Comparison with the baseline, one change a line."""
    yield f"verdict: {_SIGNS[verdict.sign]}"
    for change in verdict.changes:
        if change.sign != "same":
            before, now = _figure(change, change.before), _figure(change, change.now)
            what = f"p{verdict.percentile:g}" if change.what == "latency" else change.what
            yield f"  {change.sign} at {change.setting:g}: {what} {before} before, {now} now"
    for note in verdict.notes:
        yield f"  {note}"


def _figure(change: Change, figure: Interval | str) -> str:
    if isinstance(figure, str):
        return f"'{figure}'"
    if change.what == "failures":
        return f"{figure.value:.2%} ({figure.low:.2%} to {figure.high:.2%})"
    if change.what == "latency":
        return f"{milliseconds(figure.value)} ({milliseconds(figure.low)} to {milliseconds(figure.high)})"
    return f"{figure.value:,.1f}/s ({figure.low:,.1f} to {figure.high:,.1f})"
