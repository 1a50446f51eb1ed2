"""A run as JSON, and as lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from flowrt._version import __version__
from flowrt.errors import one_line
from flowrt.loadtest.ladder import Run
from flowrt.loadtest.step import OUTCOMES, Interval, Step
from flowrt.loadtest.verdict import Verdict

__all__ = ["as_json", "conclusions", "heads", "row", "verdict_lines"]

_PERCENTILES: Final = (50.0, 95.0, 99.0)
_VERDICTS: Final = {
    "better": "better than the baseline",
    "worse": "worse than the baseline",
    "same": "no change beyond the noise",
}


def as_json(run: Run, node: str, source: str) -> dict[str, Any]:
    """All of it, for another program and for a later `compare`.

    Args:
        run: The run.
        node: What ran.
        source: Where its inputs came from.
    """
    plan, law, best = run.plan, run.law, run.best
    return {
        "flowrt": __version__,
        "node": node,
        "input": source,
        "mode": "open" if plan.open else "closed",
        "plan": {**asdict(plan), "latency_budget": None if plan.latency_budget is None else str(plan.latency_budget)},
        "steps": [_step(run, step) for step in run.steps.values()],
        "law": None if law is None else {**asdict(law), "peak": _finite(law.peak), "knee": _finite(law.knee)},
        "best": None if best is None else best.setting,
        "notes": run.notes,
    }


def _step(run: Run, step: Step) -> dict[str, Any]:
    percentiles = dict.fromkeys((*_PERCENTILES, run.plan.percentile))
    return {
        "setting": step.setting,
        "outcome": step.outcome,
        "within_budget": run.within_budget(step),
        "ok": step.ok,
        "failed": step.failed,
        "errors": dict(step.errors),
        "throughput": asdict(step.throughput),
        "slices": step.slices,
        "latency_s": {f"p{each:g}": asdict(step.latency(each)) for each in percentiles},
        "latencies": step.latencies.encode(),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def heads(run: Run) -> list[str]:
    """The heads of the table's columns."""
    return ["items/s at rate" if run.plan.open else "at once", "items/s", "±", *_labels(run), "failed", ""]


def _labels(run: Run) -> list[str]:
    return [f"p{each:g}" for each in dict.fromkeys(sorted((*_PERCENTILES, run.plan.percentile)))]


def row(run: Run, step: Step) -> list[str]:
    """One setting's figures, and what is to be said of it."""
    throughput = step.throughput
    noise = (throughput.high - throughput.low) / 2
    share = f"{noise / throughput.value:.0%}" if throughput.value else "-"
    latencies = [milliseconds(step.latency(float(label[1:])).value) if step.ok else "-" for label in _labels(run)]
    words = [OUTCOMES[step.outcome]] if OUTCOMES[step.outcome] else []
    best, law = run.best, run.law
    if best is step:
        words.append("best")
    elif not run.within_budget(step) and not words:
        words.append("over the budget")
    if law is not None and math.isfinite(law.knee) and step is _nearest(run, law.knee):
        words.append("knee")
    figures = [f"{step.setting:g}", f"{throughput.value:,.1f}", share, *latencies, f"{step.failure_rate:.1%}"]
    return [*figures, ", ".join(words)]


def _nearest(run: Run, setting: float) -> Step | None:
    if not run.steps or setting > 1.5 * max(run.steps):
        return None
    return min(run.steps.values(), key=lambda step: abs(math.log(step.setting / max(setting, 1e-9))))


def milliseconds(seconds: float) -> str:
    """A latency as people read it."""
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1e3:,.1f} ms"


def conclusions(run: Run) -> Iterator[str]:
    """What follows from the figures, in words."""
    best, law, plan = run.best, run.law, run.plan
    budgets = [f"at most {plan.error_budget:.2%} failed"]
    if plan.latency_budget is not None:
        budgets.append(str(plan.latency_budget))
    within = f"within the budget ({', '.join(budgets)})"
    if best is None:
        yield f"no setting stayed {within}"
    elif plan.open:
        yield f"best: {best.setting:g} items a second is the highest rate {within}"
    else:
        yield (
            f"best: {best.setting:g} at once gives {best.throughput.value:,.1f} items a second {within}, "
            f"p{plan.percentile:g} {milliseconds(best.latency(plan.percentile).value)}"
        )
    if law is not None:
        yield (
            f"Universal Scalability Law: {law.rate:,.2f} items a second one at a time, "
            f"contention {law.contention:.2%}, coherency {law.coherency:.4%}; "
            f"it explains {law.fit:.1%} of the differences"
        )
        most = max(run.steps)
        if math.isfinite(law.knee) and law.knee <= 1.5 * most:
            yield f"knee: at about {law.knee:,.0f} at once; beyond, latency grows faster than throughput"
        else:
            yield f"knee: none up to {most:g} at once"
        if math.isfinite(law.peak) and law.peak <= 1.5 * most:
            yield f"peak: at about {law.peak:,.0f} at once; beyond, more at once is less in all"
    for step in run.steps.values():
        for kind, count in step.errors.most_common(3):
            yield f"failed at {step.setting:g}: {count:,} {one_line(kind)}"
    yield from run.notes


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """What has changed since the baseline, in words."""
    words = {
        "better": "better than the baseline",
        "worse": "worse than the baseline",
        "same": "no change beyond the noise",
    }
    yield f"verdict: {words[verdict.sign]}"
    for change in verdict.changes:
        if change.sign == "same":
            continue
        before, now = _told(change.what, change.before), _told(change.what, change.now)
        what = f"p{verdict.percentile:g}" if change.what == "latency" else change.what
        yield f"  {change.sign} at {change.setting:g}: {what} {before} before, {now} now"


def _told(what: str, interval: Interval) -> str:
    if what == "failures":
        return f"{interval.value:.2%} ({interval.low:.2%} to {interval.high:.2%})"
    if what == "latency":
        return f"{milliseconds(interval.value)} ({milliseconds(interval.low)} to {milliseconds(interval.high)})"
    return f"{interval.value:,.1f}/s ({interval.low:,.1f} to {interval.high:,.1f})"
