"""A run as JSON, and as lines for a terminal."""

from __future__ import annotations

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from flowrt._version import __version__
from flowrt.errors import one_line
from flowrt.loadtest.comparison import Change, Verdict
from flowrt.loadtest.measurement import OUTCOMES, Interval, Latencies, Step
from flowrt.loadtest.search import Run

__all__ = ["about", "as_json", "conclusions", "heads", "milliseconds", "row", "verdict_lines"]

_PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)
_SHOWN: Final = (50.0, 95.0, 99.0)
_KINDS: Final = 5  # of errors that are told of
_EXAMPLE: Final = 200  # characters of a message
_SIGNS: Final = {
    "better": "better than the baseline",
    "worse": "worse than the baseline",
    "same": "no change beyond the noise",
}


def about(run: Run, node: str, source: str, executor: str) -> dict[str, Any]:
    """What a run is of, by what makes another one differ.

    Args:
        run: The run.
        node: What ran.
        source: Where its inputs came from.
        executor: Where it ran.
    """
    plan = run.plan
    return {
        "node": node,
        "input": source,
        "executor": executor,
        "step": run.step_s,
        "item_timeout": plan.item_timeout,
    }


def as_json(run: Run, of: Mapping[str, Any], verdict: Verdict | None = None) -> dict[str, Any]:
    """All of it, for another program and for a later `compare`.

    Args:
        run: The run.
        of: What `about` says of it.
        verdict: How it compares with a baseline, if it does.
    """
    plan, law, best = run.plan, run.law, run.best
    return {
        "flowrt": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "node": of["node"],
        "input": of["input"],
        "executor": of["executor"],
        "mode": "open" if plan.open else "closed",
        "plan": {**asdict(plan), "latency_budget": None if plan.latency_budget is None else str(plan.latency_budget)},
        "step_s": run.step_s,
        "steps": [_step(run, step) for step in run.steps.values()],
        "law": None
        if law is None
        else {**asdict(law), "peak": _finite(law.peak), "knee": _finite(law.knee), "trusted": law.trusted},
        "best": None if best is None else best.setting,
        "notes": run.notes,
        "verdict": None if verdict is None else _verdict(verdict),
    }


def _step(run: Run, step: Step) -> dict[str, Any]:
    percentiles = dict.fromkeys((*_PERCENTILES, run.plan.percentile))
    return {
        "setting": step.setting,
        "outcome": step.outcome,
        "within_budget": run.within_budget(step),
        "keeps_up": run.keeps_up(step),
        "ok": step.ok,
        "failed": step.failed,
        "unstarted": step.unstarted,
        "most_in_flight": step.most,
        "errors": {kind: {"count": count, "example": step.examples.get(kind)} for kind, count in step.errors.items()},
        "throughput": step.throughput.as_json(),
        "passes": [{"items_s": rate, "seconds": s} for rate, s in zip(step.means, step.lengths, strict=True)],
        "slices": step.slices,
        "latency_s": {
            **{f"p{each:g}": step.latency(each).as_json() for each in percentiles},
            "mean": step.latencies.mean,
            "max": step.latencies.most,
        },
        "failed_latency_s": _summary(step.failed_latencies),
        "latencies": step.latencies.encode(),
    }


def _summary(latencies: Latencies) -> dict[str, float] | None:
    if not latencies.count:
        return None
    return {**{f"p{each:g}": latencies.at(each) for each in _SHOWN}, "mean": latencies.mean, "max": latencies.most}


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


def heads(run: Run) -> list[str]:
    """The heads of the table's columns."""
    first = "arrive/s" if run.plan.open else "at once"
    return [first, "items/s", "±", *(f"p{each:g}" for each in _shown(run)), "max", "failed", ""]


def _shown(run: Run) -> list[float]:
    return sorted({*_SHOWN, run.plan.percentile})


def row(run: Run, step: Step) -> list[str]:
    """One setting's figures, and what is to be said of it."""
    throughput, latencies = step.throughput, step.latencies
    known = throughput.known and throughput.value
    noise = f"{(throughput.high - throughput.low) / 2 / throughput.value:.0%}" if known else "-"
    told = [latencies.at(each) for each in _shown(run)]
    spent = [milliseconds(each) for each in (*told, latencies.most)] if step.ok else ["-"] * (len(told) + 1)
    figures = [f"{step.setting:g}", f"{throughput.value:,.1f}", noise, *spent, f"{step.failure_rate:.1%}"]
    return [*figures, ", ".join(_words(run, step))]


def _words(run: Run, step: Step) -> Iterator[str]:
    law = run.law
    if OUTCOMES[step.outcome]:
        yield OUTCOMES[step.outcome]
    elif run.best is step:
        yield "best"
    elif not run.keeps_up(step):
        yield "over: items came faster than they ended"
    elif not run.within_budget(step):
        yield "over the budget"
    if law is not None and law.trusted and step is _nearest(run, law.knee):
        yield "knee"


def _nearest(run: Run, setting: float) -> Step | None:
    if not run.steps or setting > max(run.steps):
        return None
    return min(run.steps.values(), key=lambda step: abs(math.log(step.setting / setting)))


def milliseconds(seconds: float) -> str:
    """A latency as people read it."""
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1e3:,.1f} ms"


def conclusions(run: Run) -> Iterator[str]:
    """What follows from the figures, in words."""
    best, plan = run.best, run.plan
    budgets = [f"at most {plan.error_budget:.2%} failed"]
    if plan.latency_budget is not None:
        budgets.append(str(plan.latency_budget))
    within = f"within the budget ({', '.join(budgets)})"
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
    yield from _of_the_law(run)
    for step in run.steps.values():
        yield from _of_a_step(run, step)
    yield from _failures(run)
    yield from run.notes


def _of_the_law(run: Run) -> Iterator[str]:
    law = run.law
    if law is None:
        return
    yield (
        f"Universal Scalability Law: {law.rate:,.2f} items a second one at a time, contention {law.contention:.2%}, "
        f"coherency {law.coherency:.4%}; it is off by {law.error:.1%}"
    )
    most = max(run.steps)
    if not law.trusted:
        why = "any three settings fit it" if law.points <= len(_SHOWN) else "it does not describe this node"
        yield f"knee: not told, as {why}; try further settings"
        return
    for name, setting, beyond in (
        ("knee", law.knee, "latency grows faster than throughput"),
        ("peak", law.peak, "more at once is less in all"),
    ):
        if setting <= most:
            yield f"{name}: at about {setting:,.0f} at once; beyond, {beyond}"
        elif setting <= 1.5 * most:
            yield f"{name}: at about {setting:,.0f} at once, if the law goes on beyond what was measured"
        elif name == "knee":
            yield f"knee: none up to {most:g} at once"


def _of_a_step(run: Run, step: Step) -> Iterator[str]:
    what = f"{step.setting:g}/s" if run.plan.open else f"{step.setting:g} at once"
    if step.outcome == "short":
        enough = math.ceil(4 * step.slowest)
        yield f"{what}: too short a step, as an item took {step.slowest:.1f} s: pass --step {enough} or more"
    if step.unstarted:
        yield f"{what}: {step.unstarted:,} items were due and could not start, {step.most:,} being in flight"


def _failures(run: Run) -> Iterator[str]:
    """The errors that came most often, with where and an example of each."""
    kinds = sum((step.errors for step in run.steps.values()), Counter[str]())
    for kind, count in kinds.most_common(_KINDS):
        its = [step for step in run.steps.values() if step.errors[kind]]
        places = ", ".join(f"{step.errors[kind]:,} at {step.setting:g}" for step in its)
        example = next((step.examples[kind] for step in its if step.examples.get(kind)), "")
        told = f", for instance: {example[:_EXAMPLE]}" if example else ""
        yield f"failed: {count:,} {one_line(kind)} ({places}){told}"


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """What has changed since the baseline, in words."""
    yield f"verdict: {_SIGNS[verdict.sign]}"
    for change in verdict.changes:
        if change.sign != "same":
            before, now = _told(change, change.before), _told(change, change.now)
            what = f"p{verdict.percentile:g}" if change.what == "latency" else change.what
            yield f"  {change.sign} at {change.setting:g}: {what} {before} before, {now} now"
    for note in verdict.notes:
        yield f"  {note}"


def _told(change: Change, figure: Interval | str) -> str:
    if isinstance(figure, str):
        return f"'{figure}'"
    if change.what == "failures":
        return f"{figure.value:.2%} ({figure.low:.2%} to {figure.high:.2%})"
    if change.what == "latency":
        return f"{milliseconds(figure.value)} ({milliseconds(figure.low)} to {milliseconds(figure.high)})"
    return f"{figure.value:,.1f}/s ({figure.low:,.1f} to {figure.high:,.1f})"
