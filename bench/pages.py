"""Pages generated from the results: `bench/RESULTS.md`, and tables of the README and of the page on tracing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.arms import ARMS, PEERS
from bench.charts import CHARTS
from bench.measure import figures
from bench.report import BASELINE, RESULTS, provenance, tables, targets, where
from bench.suites import SUITES
from bench.tables import Table

__all__ = ["overhead_markdown", "prices_markdown", "read_results", "results_markdown"]

_ALT: Final = {
    "overhead": "Cost of an item, as bars, for flowrt and its peers",
    "cpu": "CPU an item beside wall time, where items sleep for a millisecond",
    "speedup": "Speedup over the number of items at once, beside the ideal line",
    "memory": "Memory over the number of items",
    "telemetry": "Where an item's time goes with everything on, beside telemetry by hand",
}


def read_results(folder: Path | None = None) -> dict[str, Any]:
    """JSON by suite, in the order of the suites."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((folder or RESULTS).glob("*.json"))}
    return {suite.name: found[suite.name] for suite in SUITES if suite.name in found}


def results_markdown(results: Mapping[str, Any]) -> str:
    """The page with every table and chart.

    Args:
        results: JSON by suite, from `read_results`.
    """
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    yield "# Results of the bench"
    yield ""
    yield "Made by `make docs` from [results](results); [README.md](README.md) has the method. Times drift from run to"
    yield "run and from machine to machine: compare by the ratios, each taken within a round. CPU is that of the"
    yield "process with all its threads; workloads that sleep hide it in wall time."
    yield ""
    yield "## Targets"
    yield ""
    yield "| | figure | target | lowest to highest | |"
    yield "|---|---:|---:|---:|---|"
    for name, measured in results.items():
        for target in targets(measured):
            if target.samples:
                goal = f"{'≤' if target.at_most else '≥'} {target.bound:g}"
                spread = f"{min(target.samples):.3g} to {max(target.samples):.3g}"
                verdict = "met" if target.met else "**missed**"
                yield f"| {target.what} ({name}) | {median(target.samples):.3g} | {goal} | {spread} | {verdict} |"
    for name, measured in results.items():
        title = next(suite.title for suite in SUITES if suite.name == name)
        yield ""
        yield f"## {name}: {title}"
        if name == "peers":
            yield ""
            yield "Measured at another time than the tables above: only the ratios compare with those. In the chart"
            yield "a peer's cost is its ratio to nadoo-flow-core in the same round, times that package's cost above."
            yield ""
            yield from _at_a_glance(measured)
        for chart, (needs, _) in CHARTS.items():
            if needs == name:
                yield ""
                yield f"![{_ALT[chart]}](results/{chart}.svg)"
        for place, table in enumerate(tables(measured)):
            yield ""
            yield f"### {table.title[:1].upper()}{table.title[1:]}"
            yield ""
            yield from table.markdown()
            if "workloads" in measured and "commit" in (work := measured["workloads"][place]):
                yield ""
                yield f"{work['rounds']} rounds; commit {work['commit']}, {work['measured_at']}."
        yield ""
        yield from (f"{line}  " for line in provenance(measured))


def _at_a_glance(measured: Mapping[str, Any]) -> Iterator[str]:
    """One row for each arm, one column for each workload."""
    works = measured["workloads"]
    by_work = [figures(work, BASELINE) for work in works]
    table = Table("overhead in µs an item, medians; the tables below have the spread", [work["name"] for work in works])
    for arm in (*ARMS, *PEERS):
        samples = [of.get(arm.name, {}).get("overhead_us", ()) for of in by_work]
        if any(samples):
            table.add(arm.title, *(f"{median(its):,.1f}" if its else "-" for its in samples))
    yield f"### {table.title[:1].upper()}{table.title[1:]}"
    yield ""
    yield from table.markdown()


def overhead_markdown() -> str:
    """Table of the README, from the checked-in results: on Python 3.11, and the ratio of CPU on each other Python."""
    measured = json.loads((RESULTS / "overhead.json").read_text())
    noop = _noop(measured)
    by_arm = figures(noop, BASELINE)
    others = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("overhead-*.json"))]
    on_others = [figures(_noop(each), BASELINE) for each in others]
    versions = [each["machine"]["python"].removeprefix("CPython ") for each in others]
    head = ["µs an item", "low to high", "of nadoo-flow-core", "low to high", "CPU, µs", "its ratio"]
    head += [*(f"on {version}" for version in versions), "spans sent"]
    table = [f"| | {' | '.join(head)} |", f"|---|{'---:|' * len(head)}"]
    for arm in ARMS:
        if arm.name in measured["missing"]:
            cells = [measured["missing"][arm.name] if place == 1 else "–" for place in range(len(head))]
            table.append(f"| {arm.title} | {' | '.join(cells)} |")
        elif arm.name in by_arm:
            its = by_arm[arm.name]
            cells = [arm.title, _middle(its["overhead_us"], ".2f"), _spread(its["overhead_us"])]
            cells += [_middle(its["to_baseline"], ".3f", "×"), _spread(its["to_baseline"])]
            cells += [_middle(its["cpu_us"], ".2f"), _middle(its["cpu_to_baseline"], ".3f", "×")]
            cells += [_middle(on.get(arm.name, {}).get("cpu_to_baseline", ()), ".3f", "×") for on in on_others]
            cells += [f"{min(its['delivered']):.1%}" if its["delivered"] else "–"]
            table.append(f"| {' | '.join(cells)} |")
    what = f"{noop['items']:,} no-op items at concurrency {noop['concurrency']}, medians"
    return "\n".join([*table, "", f"{what}; {where(measured)}, commit {measured['machine']['commit']}."])


def _noop(measured: Mapping[str, Any]) -> dict[str, Any]:
    return next(work for work in measured["workloads"] if work["name"] == "noop")


def prices_markdown() -> str:
    """Table of the page on tracing, from the checked-in results."""
    measured = json.loads((RESULTS / "prices.json").read_text())
    (table,) = tables(measured)
    return "\n".join([*table.markdown(), "", f"{where(measured)}, commit {measured['machine']['commit']}."])


def _middle(samples: Sequence[float], form: str, unit: str = "") -> str:
    return f"{median(samples):{form}}{unit}" if samples else "–"


def _spread(samples: Sequence[float]) -> str:
    return f"{min(samples):.2f} to {max(samples):.2f}" if samples else "–"
