"""Tables of what was measured, and which of the targets were met."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.arms import ARMS
from bench.measure import summarize

__all__ = ["RESULTS", "Target", "memory_lines", "overhead_lines", "overhead_markdown", "targets"]

RESULTS: Final = Path(__file__).parent / "results"
BASELINE: Final = "nadoo"
_TITLES: Final = {arm.name: arm.title for arm in ARMS}


class Target(NamedTuple):
    """A figure to reach.

    Attributes:
        what: In words.
        value: What was measured.
        bound: What it should be.
        at_most: Whether the bound is from above.
    """

    what: str
    value: float
    bound: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{'met   ' if self.met else 'MISSED'}  {self.what}: {self.value:.3g} (target {sign} {self.bound:g})"


def targets(measured: dict[str, Any]) -> Iterator[Target]:
    """The targets for which there are figures."""
    told = {work["name"]: summarize(work, BASELINE) for work in measured["workloads"]}
    noop = told.get("noop", {})
    for arm, bound in (("flowrt-bare", 0.25), ("flowrt-metrics", 0.3), ("flowrt-delivered", 0.6)):
        if "to_baseline" in noop.get(arm, {}):
            yield Target(f"{arm} on no-op, of nadoo-flow-core bare", noop[arm]["to_baseline"], bound)
    if "by-hand" in noop and "flowrt-delivered" in noop:
        ratio = noop["by-hand"]["overhead_us"] / noop["flowrt-delivered"]["overhead_us"]
        yield Target("by-hand over flowrt-delivered on no-op", ratio, 10, at_most=False)
    for name in ("1ms", "10ms"):
        for arm in ("flowrt-bare", "flowrt-metrics"):
            if "to_floor" in told.get(name, {}).get(arm, {}):
                yield Target(f"{arm} on {name}, wall time of the floor's", told[name][arm]["to_floor"], 1.1)
    for arm in ("flowrt-bare", "flowrt-metrics"):
        if "of_ideal" in told.get("50ms", {}).get(arm, {}):
            yield Target(f"{arm} on 50ms, of the ideal", told["50ms"][arm]["of_ideal"], 0.98, at_most=False)
    for name, work in told.items():
        if "delivered" in work.get("flowrt-delivered", {}):
            delivered = work["flowrt-delivered"]["delivered"]
            yield Target(f"spans delivered on {name}, share", delivered, 1, at_most=False)


def overhead_lines(measured: dict[str, Any]) -> Iterator[str]:
    """The table for a terminal, and the targets."""
    for work in measured["workloads"]:
        yield f"{work['title']}, {work['items']:,} items, {work['concurrency']:,} at once"
        yield f"  {'':62}{'us an item':>12}{'low':>9}{'high':>9}{'of nadoo':>10}{'of floor':>10}{'delivered':>11}"
        summary = summarize(work, BASELINE)
        for arm in ARMS:
            if arm.name in measured["missing"]:
                yield f"  {arm.title:62}{'-':>12}  {measured['missing'][arm.name]}"
            elif arm.name in summary:
                told = summary[arm.name]
                ratio = f"{told['to_baseline']:.2f}x" if "to_baseline" in told else "-"
                floor = f"{told['to_floor']:.2f}x" if "to_floor" in told else "-"
                share = f"{told['delivered']:.1%}" if "delivered" in told else ""
                times = f"{told['overhead_us']:>12.2f}{told['low_us']:>9.2f}{told['high_us']:>9.2f}"
                yield f"  {arm.title:62}{times}{ratio:>10}{floor:>10}{share:>11}"
        yield ""
    yield from map(str, targets(measured))


def memory_lines(measured: dict[str, Any]) -> Iterator[str]:
    """What the stream's memory came to."""
    yield str(Target(f"MiB of growth over {measured['items']:,} streamed items", measured["growth_mib"], 20))


def overhead_markdown() -> str:
    """The README's table, from the checked-in results."""
    measured = json.loads((RESULTS / "overhead.json").read_text())
    noop = next(work for work in measured["workloads"] if work["name"] == "noop")
    summary, machine = summarize(noop, BASELINE), measured["machine"]
    lines = ["| | µs an item | of nadoo-flow-core, same run |", "|---|---:|---:|"]
    for arm in ARMS:
        if arm.name in measured["missing"]:
            lines.append(f"| {arm.title} | – | {measured['missing'][arm.name]} |")
        elif arm.name in summary:
            told = summary[arm.name]
            ratio = f"{told['to_baseline']:.2f}×" if "to_baseline" in told else "–"
            share = f", {told['delivered']:.1%} of the spans delivered" if "delivered" in told else ""
            lines.append(f"| {_TITLES[arm.name]}{share} | {told['overhead_us']:.2f} | {ratio} |")
    where = f"{machine['python']}, {machine['cores']} cores of {machine['processor']}, {measured['rounds']} rounds"
    return "\n".join([*lines, "", f"No-op items, {noop['items']:,} at concurrency {noop['concurrency']}; {where}."])
