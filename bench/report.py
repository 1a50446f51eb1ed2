"""Tables of what was measured, and which of the targets were met."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from bench.arms import ARMS, PEERS
from bench.measure import figures, ratios
from bench.memory import MEMORY, MEMORY_PEERS
from bench.workloads import workload

__all__ = ["RESULTS", "Target", "lines", "overhead_markdown", "targets"]

RESULTS: Final = Path(__file__).parent / "results"
BASELINE: Final = "nadoo"
_STREAM: Final = "flowrt-stream"


class Target(NamedTuple):
    """A figure to reach.

    Attributes:
        what: In words.
        samples: What was measured in each round; empty where an arm that it needs did not run.
        bound: What their median should be.
        at_most: Whether the bound is from above.
    """

    what: str
    samples: Sequence[float]
    bound: float
    at_most: bool = True

    def __str__(self) -> str:
        goal = f"target {'<=' if self.at_most else '>='} {self.bound:g}"
        if not self.samples:
            return f"-       {self.what}: not measured ({goal})"
        value = median(self.samples)
        met = value <= self.bound if self.at_most else value >= self.bound
        spread = f"; rounds {min(self.samples):.3g} to {max(self.samples):.3g}" if len(self.samples) > 1 else ""
        return f"{'met   ' if met else 'MISSED'}  {self.what}: {value:.3g} ({goal}{spread})"


def targets(measured: Mapping[str, Any]) -> Iterator[Target]:
    """The targets on the workloads that were run."""
    works = {work["name"]: work for work in measured["workloads"]}
    told = {name: figures(work, BASELINE) for name, work in works.items()}

    def samples(work: str, arm: str, which: str) -> Sequence[float]:
        return told[work].get(arm, {}).get(which, ())

    if "noop" in works:
        for arm, bound in (("flowrt-bare", 0.25), ("flowrt-metrics", 0.3), ("flowrt-delivered", 0.6)):
            yield Target(f"{arm} on noop, of nadoo-flow-core bare", samples("noop", arm, "to_baseline"), bound)
        by_hand = ratios(works["noop"], "by-hand", "flowrt-delivered")
        yield Target("by-hand over flowrt-delivered on noop", by_hand, 10, at_most=False)
    for name in ("1ms", "10ms"):
        if name in works:
            for arm in ("flowrt-bare", "flowrt-metrics"):
                yield Target(f"{arm} on {name}, wall time of the floor's", samples(name, arm, "to_floor"), 1.1)
    if "50ms" in works:
        for arm in ("flowrt-bare", "flowrt-metrics"):
            yield Target(f"{arm} on 50ms, of the ideal", samples("50ms", arm, "of_ideal"), 0.98, at_most=False)
    for name in works:
        came = samples(name, "flowrt-delivered", "delivered")
        least = [min(came)] if came else []  # a span lost in one round is lost
        yield Target(f"spans of flowrt-delivered that came on {name}, least share", least, 1, at_most=False)


def lines(measured: Mapping[str, Any]) -> Iterator[str]:
    """Tables for a terminal, the targets, and where it was measured.

    Args:
        measured: What `measure` or `measure_memory` gave.
    """
    yield from _memory(measured) if "memory" in measured else _overhead(measured)
    machine = measured["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    yield ""
    yield f"{_where(measured)}, {machine['system']}; commit {machine['commit']}; {machine['measured_at']}"
    yield f"{packages}; garbage collector {machine['garbage_collector']}"


def _overhead(measured: Mapping[str, Any]) -> Iterator[str]:
    for work in measured["workloads"]:
        yield f"{work['title']}, {work['items']:,} items, {work['concurrency']:,} at once"
        heads = f"{'of nadoo':>10}{'of floor':>10}{'of ideal':>10}{'sent':>8}"
        yield f"  {'':62}{'us an item':>12}{'low':>9}{'high':>9}{heads}"
        told = figures(work, BASELINE)
        out = {**measured["missing"], **work.get("out", {})}
        for arm in (*ARMS, *PEERS):
            if arm.name in out:
                yield f"  {arm.title:62}{'-':>12}  {out[arm.name]}"
            elif arm.name in told:
                its = told[arm.name]
                over_us = its["overhead_us"]
                times = f"{median(over_us):>12.2f}{min(over_us):>9.2f}{max(over_us):>9.2f}"
                shares = f"{_of(its['to_baseline'], '.2f', 'x'):>10}{_of(its['to_floor'], '.2f', 'x'):>10}"
                rest = f"{_of(its['of_ideal'], '.1%'):>10}{_of(its['delivered'], '.1%', by=min):>8}"
                items = work["samples"][arm.name][0].get("items", work["items"])
                fewer = f"  {items:,} items" if items < work["items"] else ""
                yield f"  {arm.title:62}{times}{shares}{rest}{fewer}"
        yield ""
    if any(work["items"] < workload(work["name"]).items for work in measured["workloads"]):
        yield "a cut run: the targets below are those of the full number of items"
    yield from map(str, targets(measured))


def _memory(measured: Mapping[str, Any]) -> Iterator[str]:
    yield "peak memory over that of before the run, no-op items"
    yield f"  {'':62}{'items':>12}{'MiB':>9}{'low':>9}{'high':>9}{'B an item':>11}"
    for arm in (*MEMORY, *MEMORY_PEERS):
        if arm.name in measured["missing"]:
            yield f"  {arm.title:62}{'-':>12}  {measured['missing'][arm.name]}"
        elif arm.name in measured["memory"]:
            told = measured["memory"][arm.name]
            low, high = min(told["samples_mib"]), max(told["samples_mib"])
            each = told["growth_mib"] * 2**20 / told["items"]
            yield f"  {arm.title:62}{told['items']:>12,}{told['growth_mib']:>9.1f}{low:>9.1f}{high:>9.1f}{each:>11.1f}"
    yield ""
    if stream := measured["memory"].get(_STREAM):
        growth_mb = [mib * 2**20 / 1e6 for mib in stream["samples_mib"]]
        yield str(Target(f"{_STREAM}, MB of growth over {stream['items']:,} items", growth_mb, 20))


def _of(samples: Sequence[float], form: str, unit: str = "", by: Callable[[Sequence[float]], float] = median) -> str:
    return f"{by(samples):{form}}{unit}" if samples else "-"


def _where(measured: Mapping[str, Any]) -> str:
    machine, rounds = measured["machine"], measured["rounds"]
    return f"{machine['python']}, {machine['cores']} cores of {machine['processor']}, {rounds} rounds"


def overhead_markdown() -> str:
    """The README's table, from the checked-in results."""
    measured = json.loads((RESULTS / "overhead.json").read_text())
    noop = next(work for work in measured["workloads"] if work["name"] == "noop")
    told = figures(noop, BASELINE)
    table = [
        "| | µs an item | lowest to highest | of nadoo-flow-core | lowest to highest | spans delivered |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm in ARMS:
        if arm.name in measured["missing"]:
            table.append(f"| {arm.title} | – | {measured['missing'][arm.name]} | – | – | – |")
        elif arm.name in told:
            its = told[arm.name]
            cells = [arm.title, _of(its["overhead_us"], ".2f"), _spread(its["overhead_us"])]
            cells += [_of(its["to_baseline"], ".3f", "×"), _spread(its["to_baseline"])]
            cells += [_of(its["delivered"], ".1%", by=min)]
            table.append(f"| {' | '.join('–' if cell == '-' else cell for cell in cells)} |")
    what = f"{noop['items']:,} no-op items at concurrency {noop['concurrency']}, medians of {measured['rounds']} rounds"
    machine = measured["machine"]
    where = f"{machine['python']}, {machine['cores']} cores of {machine['processor']}, commit {machine['commit']}"
    return "\n".join([*table, "", f"{what}; {where}."])


def _spread(samples: Sequence[float]) -> str:
    return f"{min(samples):.2f} to {max(samples):.2f}" if samples else "-"
