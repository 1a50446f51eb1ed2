"""Tables of the results, and their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from bench.arms import ARMS, PEERS
from bench.costs import cost_ratios, cost_tables
from bench.delivery import CASES
from bench.forecasts import errors, median_error
from bench.item_task import item_task_tables, paired
from bench.journal import journal_tables
from bench.measure import figures, ratios
from bench.memory import MEMORY, MEMORY_PEERS
from bench.nested import nested_ratios, nested_tables
from bench.on_ray import of_ray_rounds, ray_tables
from bench.parts import DIFFERENCES, PARTS
from bench.prices import PRICES
from bench.processes import of_rounds, process_tables
from bench.small import cpu_ratios, growth, small_tables
from bench.startup import PACE, STARTS, beyond_ms
from bench.tables import Table
from bench.waiting import waiting_tables
from bench.workloads import workload

__all__ = ["BASELINE", "RESULTS", "Target", "differences", "lines", "provenance", "tables", "targets", "where"]

RESULTS: Final = Path(__file__).parent / "results"
BASELINE: Final = "nadoo"
_STREAM: Final = "flowrt-stream"

Measured = Mapping[str, Any]


class Target(NamedTuple):
    """A figure with its bound.

    Attributes:
        what: The figure in words.
        samples: The figure of each round; empty if an arm that it needs did not run.
        bound: Bound of their median.
        at_most: True for an upper bound.
    """

    what: str
    samples: Sequence[float]
    bound: float
    at_most: bool = True

    @property
    def met(self) -> bool | None:
        """True if the median is within the bound; None if it was not measured."""
        if not self.samples:
            return None
        value = median(self.samples)
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        goal = f"target {'<=' if self.at_most else '>='} {self.bound:g}"
        if not self.samples:
            return f"-       {self.what}: not measured ({goal})"
        spread = f"; rounds {min(self.samples):.3g} to {max(self.samples):.3g}" if len(self.samples) > 1 else ""
        return f"{'met   ' if self.met else 'MISSED'}  {self.what}: {median(self.samples):.3g} ({goal}{spread})"


def lines(measured: Measured) -> Iterator[str]:
    """Tables, targets and provenance as lines for a terminal.

    Args:
        measured: JSON of a suite.
    """
    for table in tables(measured):
        yield from table.text()
        yield ""
    works = measured.get("workloads", ())
    if any(work["items"] < workload(work["name"]).items for work in works):
        yield "a cut run: the targets below are those of the full number of items"
    yield from map(str, targets(measured))
    yield ""
    yield from provenance(measured)


def provenance(measured: Measured) -> Iterator[str]:
    """Machine, versions, commit and time of the measurement."""
    machine = measured["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    yield f"{where(measured)}, {machine['system']}; commit {machine['commit']}; {machine['measured_at']}"
    yield f"{packages}; garbage collector {machine['garbage_collector']}{_load(machine)}"


def _load(machine: Mapping[str, Any]) -> str:
    """Load of the machine over the last 1, 5 and 15 minutes."""
    load = machine.get("load")
    return f"; load {', '.join(f'{each:g}' for each in load)}" if load else ""


def where(measured: Measured) -> str:
    """Interpreter, processor and rounds."""
    machine, rounds = measured["machine"], measured["rounds"]
    return f"{machine['python']}, {machine['cores']} cores of {machine['processor']}, {rounds} rounds"


def tables(measured: Measured) -> Iterator[Table]:
    """Tables of a suite."""
    for key, make in _TABLES.items():
        if key in measured:
            yield from make(measured)


def targets(measured: Measured) -> Iterator[Target]:
    """Targets of a suite."""
    for key, make in _TARGETS.items():
        if key in measured:
            yield from make(measured)


# -- workloads ---------------------------------------------------------------------------------------------------


def _works(measured: Measured) -> Iterator[Table]:
    for work in measured["workloads"]:
        heads = (
            "µs an item",
            "low",
            "high",
            "of nadoo",
            "CPU µs",
            "CPU of nadoo",
            "of floor",
            "of ideal",
            "sent",
            "items",
        )
        table = Table(f"{work['title']}, {work['items']:,} items, {work['concurrency']:,} at once", heads)
        data = figures(work, BASELINE)
        out = {**measured["missing"], **work.get("out", {})}
        for arm in (*ARMS, *PEERS):
            if arm.name in out:
                table.miss(arm.title, out[arm.name])
            elif data.get(arm.name, {}).get("overhead_us"):
                its, over_us = data[arm.name], data[arm.name]["overhead_us"]
                items = work["samples"][arm.name][0].get("items", work["items"])
                table.add(
                    arm.title,
                    *(f"{value:,.2f}" for value in (median(over_us), min(over_us), max(over_us))),
                    _of(its["to_baseline"], ".2f", "x"),
                    _of(its["cpu_us"], ",.2f"),
                    _of(its["cpu_to_baseline"], ".2f", "x"),
                    _of(its["to_floor"], ".2f", "x"),
                    _of(its["of_ideal"], ".1%"),
                    _of(its["delivered"], ".1%", by=min),
                    f"{items:,}",
                )
        yield table


def _work_targets(measured: Measured) -> Iterator[Target]:
    works = {work["name"]: work for work in measured["workloads"]}
    data = {name: figures(work, BASELINE) for name, work in works.items()}

    def samples(work: str, arm: str, which: str) -> Sequence[float]:
        return data[work].get(arm, {}).get(which, ())

    if "noop" in works:
        for arm, bound in (("flowrt-bare", 0.25), ("flowrt-metrics", 0.3), ("flowrt-delivered", 0.6)):
            yield Target(f"{arm} on noop, of nadoo-flow-core bare", samples("noop", arm, "to_baseline"), bound)
        by_hand = ratios(works["noop"], "by-hand", "flowrt-delivered")
        yield Target("by-hand over flowrt-delivered on noop", by_hand, 10, at_most=False)
    for name in ("1ms", "10ms"):
        if name in works:
            for arm, bound in (("flowrt-bare", 1.1), ("flowrt-metrics", 1.1), ("flowrt-delivered", 1.3)):
                yield Target(f"{arm} on {name}, wall time of the floor's", samples(name, arm, "to_floor"), bound)
    if "50ms" in works:
        for arm in ("flowrt-bare", "flowrt-metrics", "flowrt-delivered"):
            yield Target(f"{arm} on 50ms, of the ideal", samples("50ms", arm, "of_ideal"), 0.98, at_most=False)
    for name in works:
        came = samples(name, "flowrt-delivered", "delivered")
        least = [min(came)] if came else []  # a span lost in one round is lost for good
        yield Target(f"spans of flowrt-delivered that came on {name}, least share", least, 1, at_most=False)
    yield from _ahead(measured["workloads"])


def _ahead(works: Sequence[Measured]) -> Iterator[Target]:
    """flowrt beside the quickest peer, without telemetry and with it, if several ran."""
    for work in works:
        for ours, by_hand, words in (("flowrt-bare", False, "bare"), ("flowrt-delivered", True, "with telemetry")):
            rivals = [arm.name for arm in PEERS if arm.by_hand == by_hand and work["samples"].get(arm.name)]
            rivals = [name for name in rivals if not name.startswith("floor")]
            if not work["samples"].get(ours) or not rivals or work["concurrency"] < 2:
                continue
            best = min(rivals, key=lambda name: median(ratios(work, name, ours)))
            yield Target(f"{ours} on {work['name']}, of the best peer {words} ({best})", ratios(work, ours, best), 1)


# -- memory ------------------------------------------------------------------------------------------------------


def _memory(measured: Measured) -> Iterator[Table]:
    heads = ("items", "MiB", "low", "high", "B an item")
    table = Table("peak memory over that of before the run, no-op items", heads)
    for arm in (*MEMORY, *MEMORY_PEERS):
        if arm.name in measured["missing"]:
            table.miss(arm.title, measured["missing"][arm.name])
        elif arm.name in measured["memory"]:
            data = measured["memory"][arm.name]
            mib = (data["growth_mib"], min(data["samples_mib"]), max(data["samples_mib"]))
            each = data["growth_mib"] * 2**20 / data["items"]
            table.add(arm.title, f"{data['items']:,}", *(f"{value:,.1f}" for value in mib), f"{each:,.1f}")
    yield table


def _memory_targets(measured: Measured) -> Iterator[Target]:
    memory = measured["memory"]
    if driver := memory.get("flowrt-processes"):
        growth_mb = [mib * 2**20 / 1e6 for mib in driver["samples_mib"]]
        yield Target(f"flowrt-processes, MB of growth of the driver over {driver['items']:,} items", growth_mb, 20)
    if stream := memory.get(_STREAM):
        growth_mb = [mib * 2**20 / 1e6 for mib in stream["samples_mib"]]
        yield Target(f"{_STREAM}, MB of growth over {stream['items']:,} items", growth_mb, 20)
        for rival in ("gather", "nadoo"):
            if rival in memory:  # per item, as it had fewer: a million would need more
                per_item = memory[rival]["growth_mib"] / memory[rival]["items"]
                times = [per_item / (max(mib, 0.001) / stream["items"]) for mib in stream["samples_mib"]]
                yield Target(f"memory an item of {rival} over that of {_STREAM}", times, 50, at_most=False)


# -- speedup -----------------------------------------------------------------------------------------------------


def _speedup(measured: Measured) -> Iterator[Table]:
    curves = measured["speedup"]
    points = list(next(iter(curves.values()))) if curves else []
    title = f"speedup over sequential execution, items of {measured['sleep_s'] * 1e3:g} ms"
    table = Table(title, [f"at {int(point):,}" for point in points])
    for arm in (*ARMS, *PEERS):
        if arm.name in measured["missing"]:
            table.miss(arm.title, measured["missing"][arm.name])
        elif arm.name in curves:
            table.add(arm.title, *(f"{median(curves[arm.name][point]):,.1f}" for point in points))
    yield table


# -- forecasts ---------------------------------------------------------------------------------------------------


def _forecasts(measured: Measured) -> Iterator[Table]:
    heads = ("recorded, s", "predicted", "real", "error", "at most", "error of p95")
    table = Table(f"forecasts beside real runs, {measured['items']:,} items; error: |predicted / real - 1|", heads)
    for case in measured["forecasts"].values():
        samples = case["samples"]
        middle = (median(sample[f"{what}_s"] for sample in samples) for what in ("recorded", "predicted", "real"))
        off, tail = errors(case, "s"), errors(case, "p95_s")
        title = f"{case['title']} (contention {samples[0]['contention']})" if case["loads"] else case["title"]
        shares = (median(off), max(off), median(tail))
        table.add(title, *(f"{value:.2f}" for value in middle), *(f"{share:.1%}" for share in shares))
    yield table


def _forecast_targets(measured: Measured) -> Iterator[Target]:
    free = median_error(measured, loads=False)
    what = "error on makespan where latency is independent of load, median of the cases"
    yield Target(what, [median(free)] if free else [], 0.05)


# -- page --------------------------------------------------------------------------------------------------------


def _page(measured: Measured) -> Iterator[Table]:
    data = measured["page"]
    table = Table(
        f"`flowrt report FILE -o PAGE`, {data['items']:,} items", ("s", "low", "high", "page, MB", "B an item")
    )
    seconds = data["seconds"]
    times = (f"{value:.2f}" for value in (median(seconds), min(seconds), max(seconds)))
    table.add("page", *times, f"{data['page_bytes'] / 1e6:.2f}", f"{data['recording_bytes'] / data['items']:.1f}")
    yield table


def _page_targets(measured: Measured) -> Iterator[Target]:
    data = measured["page"]
    yield Target("seconds for the page", data["seconds"], 10)
    yield Target("MB of the page", [data["page_bytes"] / 1e6], 5)
    yield Target("bytes an item of the recording", [data["recording_bytes"] / data["items"]], 24)
    yield Target("µs an item of the recorder on the loop", data["hook_us"], 0.5)


# -- parts -------------------------------------------------------------------------------------------------------


def _parts_us(measured: Measured) -> dict[str, list[float]]:
    return _at_one_pace(measured["parts_us"], measured.get("parts_pace_us"))


def _at_one_pace(us: dict[str, list[float]], paces: dict[str, list[float]] | None) -> dict[str, list[float]]:
    """Microseconds at the median of all paces."""
    if paces is None:
        return us
    usual = median(pace for its in paces.values() for pace in its)
    return {
        name: [each * usual / pace for each, pace in zip(its, paces[name], strict=True)] for name, its in us.items()
    }


def differences(measured: Measured) -> list[tuple[str, list[float]]]:
    """Cost of each part in microseconds an item, round by round."""
    us = _parts_us(measured)
    return [
        (name, [more - less for more, less in zip(us[with_], us[without], strict=True)])
        for name, with_, without in DIFFERENCES
        if with_ in us and without in us
    ]


def _parts(measured: Measured) -> Iterator[Table]:
    heads = ("µs an item", "low", "high")
    whole = Table(f"the same {measured['items']:,} no-op items, with more and more on", heads)
    for part in PARTS:
        if samples := _parts_us(measured).get(part.name):
            whole.add(part.title, *_three(samples))
    yield whole
    table = Table("cost of each part", heads)
    for name, samples in differences(measured):
        table.add(name, *_three(samples))
    yield table


def _part_targets(measured: Measured) -> Iterator[Target]:
    for name, cost_us in differences(measured):
        if name == "ledger":
            yield Target("µs an item of the ledger", cost_us, 0.3)
    us = _parts_us(measured)
    if {"bare", "no-seam"} <= us.keys():
        off = [bare / none for bare, none in zip(us["bare"], us["no-seam"], strict=True)]
        yield Target("telemetry off, of the engine with no instruments in its code", off, 1.03)
    if {"own-provider", "bare", "sdk-spans"} <= us.keys():
        rounds = zip(us["own-provider"], us["bare"], us["sdk-spans"], strict=True)
        times = [(ours - bare) / (sdk - bare) for ours, bare, sdk in rounds]
        yield Target("spans through the service's own provider, of the SDK's start_span and end", times, 1.3)


def _prices(measured: Measured) -> Iterator[Table]:
    us = _at_one_pace(measured["prices_us"], measured["prices_pace_us"])
    table = Table("one call each, with a provider of the SDK's and a BatchSpanProcessor", ("µs", "low", "high"))
    for price in PRICES:
        if samples := us.get(price.name):
            table.add(price.title, *_three(samples))
    yield table


def _three(samples: Sequence[float]) -> list[str]:
    return [f"{value:.2f}" for value in (median(samples), min(samples), max(samples))]


# -- delivery, startup, scrape -------------------------------------------------------------------------------------


def _delivery(measured: Measured) -> Iterator[Table]:
    for case in measured["cases"]:
        table = Table(f"spans sent to {case['title']}", ("spans", "arrived", "lost", "µs an item"))
        for arm in (*ARMS, *PEERS):
            if arm.name in measured["missing"]:
                table.miss(arm.title, measured["missing"][arm.name])
            elif samples := case["samples"].get(arm.name):
                items, least = samples[0]["items"], min(sample["delivered"] for sample in samples)
                us = median(sample["wall_s"] / sample["items"] * 1e6 for sample in samples)
                table.add(arm.title, f"{items:,}", f"{least:,.0f}", f"{items - least:,.0f}", f"{us:.2f}")
        yield table


def _delivery_targets(measured: Measured) -> Iterator[Target]:
    named = {case.name: case for case in CASES}
    for case in measured["cases"]:
        samples = case["samples"].get("flowrt-delivered", ())
        lost = [max(sample["items"] - sample["delivered"] for sample in samples)] if samples else []
        yield Target(f"spans of flowrt lost to {named[case['name']].title}", lost, 0)


def _startup(measured: Measured) -> Iterator[Table]:
    table = Table("start and end of a process", ("ms", "low", "high"))
    for start in STARTS:
        for what, samples in measured["startup_s"].get(start.name, {}).items():
            if what == PACE:
                continue
            label = start.title if what == "whole" else f"{start.title}: {what}"
            ms = (median(samples) * 1e3, min(samples) * 1e3, max(samples) * 1e3)
            table.add(label, *(f"{value:,.1f}" for value in ms))
    yield table


def _startup_targets(measured: Measured) -> Iterator[Target]:
    yield Target("`import flowrt` beyond its dependencies' own, in ms", beyond_ms(measured["startup_s"]), 150)


def _scrape(measured: Measured) -> Iterator[Table]:
    data = measured["scrape"]
    ms = [seconds * 1e3 for seconds in data["scrapes_s"]]
    cost_ms = [cost * 1e3 for cost in _cost_of_a_scrape(data)]
    table = Table(f"scrapes of /metrics, {data['nodes']} nodes, the loop saturated", ("median", "low", "high"))
    table.add("ms until it is answered", *(f"{value:.1f}" for value in (median(ms), min(ms), max(ms))))
    table.add(
        "ms that it costs the batch", *(f"{value:.1f}" for value in (median(cost_ms), min(cost_ms), max(cost_ms)))
    )
    yield table


def _cost_of_a_scrape(data: Mapping[str, Any]) -> list[float]:
    """Seconds that one scrape costs the batch, round by round."""
    return [
        (1 - with_ / without) * data["every_s"] for with_, without in zip(data["with"], data["without"], strict=True)
    ]


def _scrape_targets(measured: Measured) -> Iterator[Target]:
    data = measured["scrape"]
    yield Target(f"a scrape with {data['nodes']} nodes, in ms", [seconds * 1e3 for seconds in data["scrapes_s"]], 50)
    share = [cost / 15 * 100 for cost in _cost_of_a_scrape(data)]
    yield Target("cost of a scrape every 15 s, in per cent of the batch", share, 1)


# -- small, waiting and nested batches, a task for each item -------------------------------------------------------


def _small_targets(measured: Measured) -> Iterator[Target]:
    """Bounds for a batch of three: one after another beside `gather`, and among 4,000 beside one alone."""
    times = growth(measured["small"], "default")
    yield Target("CPU of a batch of three among 4,000, default, of one alone", times, 1.3)
    for case in measured["small"]:
        if case["items"] != 3 or case["at_once"] != 1:
            continue
        if (bound := {"bare": 3.0, "default": 6.0, "delivered": 11.0}.get(case["arm"])) is not None:
            yield Target(f"CPU of a batch of three, {case['arm']}, of gather", cpu_ratios(case), bound)
        if case["arm"] == "delivered":
            tails = [run["delivered"]["p99_us"] / run["delivered"]["p50_us"] for run in case["runs"]]
            yield Target("p99 of a batch of three, delivered, of its median", tails, 3)


def _waiting_targets(measured: Measured) -> Iterator[Target]:
    for case in measured["waiting"]:
        bound = {1_000: 1.0, 10_000: 3.0}.get(case["batches"])
        if case["arm"] == "default" and bound is not None:
            shares = [run["share"] * 100 for run in case["runs"]]
            yield Target(f"{case['batches']:,} waiting batches with default telemetry, % of a core", shares, bound)


def _process_targets(measured: Measured) -> Iterator[Target]:
    yield Target("CPU of the driver, no-op in processes, 100 at once, µs", of_rounds(measured, "driver cpu c=100"), 10)
    pairs = zip(of_rounds(measured, "driver cpu c=100"), of_rounds(measured, "loop cpu c=100"), strict=True)
    yield Target("the same above the loop executor, µs", [driver - loop for driver, loop in pairs], 6)
    yield Target("round trip to a worker process, µs", of_rounds(measured, "round trip"), 300)
    yield Target("10,000 x 50 ms over 2 x 250, of the ideal", of_rounds(measured, "naps"), 1.1)
    yield Target("a killed worker is noticed within, ms", of_rounds(measured, "lost ms"), 100)
    yield Target("workers outlive a killed driver by, ms", of_rounds(measured, "orphans ms"), 1_000)
    for label, bound in (("1 ms", 1.8), ("100 µs", 1.5)):
        gain = of_rounds(measured, f"flowrt {label} x1", f"flowrt {label} x2")
        yield Target(f"speedup of two processes at {label}", gain, bound, at_most=False)
        yield Target(f"wall time of joblib at {label}", of_rounds(measured, f"flowrt {label}", f"joblib {label}"), 1.1)


def _ray_targets(measured: Measured) -> Iterator[Target]:
    for at_once, bound in (("1,000", 12), ("100", 30)):
        samples = of_ray_rounds(measured, f"c={at_once.replace(',', '')}")
        yield Target(f"CPU of the driver, no-op in an actor, {at_once} at once, µs", samples, bound)
    yield Target("the same with 1,000 at once, of Ray Data", of_ray_rounds(measured, "c=1000", "data"), 1)
    calls = of_ray_rounds(measured, "calls", "c=100")
    yield Target("CPU of a Ray call per item over flowrt, 100 at once", calls, 20, at_most=False)
    yield Target("round trip to an actor, ms", [us / 1e3 for us in of_ray_rounds(measured, "round trip")], 3.5)
    yield Target("10,000 x 50 ms over 2 x 250 in actors, of the ideal", of_ray_rounds(measured, "naps"), 1.3)


def _cost_targets(measured: Measured) -> Iterator[Target]:
    for name, bound in (("retries", 1.4), ("threads", 1.3)):
        if name in measured["costs"]:
            yield Target(f"CPU of an item, {name}, of the same by hand", cost_ratios(measured, name), bound)


def _nested_targets(measured: Measured) -> Iterator[Target]:
    for name, bound in (("bare", 2.0), ("delivered", 4.0)):
        if name in measured["nested"]["runs"]:
            yield Target(f"CPU of a nested child, {name}, of gather", nested_ratios(measured, name), bound)


def _item_task_targets(measured: Measured) -> Iterator[Target]:
    more = paired(measured, "per-item", "shared", ratio=False)
    yield Target("µs of CPU an item of a task for each item over shared tasks", more, 2.5)
    whole = paired(measured, "per-item", "nadoo", ratio=True)
    yield Target("CPU with a task for each item, telemetry off, of nadoo-flow-core", whole, 0.34)
    delivered = paired(measured, "delivered", "nadoo", ratio=True)
    yield Target("CPU with a task for each item, everything on, of nadoo-flow-core", delivered, 0.55)


_TABLES: Final[dict[str, Callable[[Measured], Iterator[Table]]]] = {
    "workloads": _works,
    "memory": _memory,
    "speedup": _speedup,
    "forecasts": _forecasts,
    "page": _page,
    "parts_us": _parts,
    "prices_us": _prices,
    "cases": _delivery,
    "journal_us": journal_tables,
    "startup_s": _startup,
    "scrape": _scrape,
    "small": small_tables,
    "waiting": waiting_tables,
    "nested": nested_tables,
    "processes": process_tables,
    "ray": ray_tables,
    "costs": cost_tables,
    "item_task": item_task_tables,
}
_TARGETS: Final[dict[str, Callable[[Measured], Iterator[Target]]]] = {
    "workloads": _work_targets,
    "memory": _memory_targets,
    "forecasts": _forecast_targets,
    "page": _page_targets,
    "parts_us": _part_targets,
    "cases": _delivery_targets,
    "startup_s": _startup_targets,
    "scrape": _scrape_targets,
    "small": _small_targets,
    "waiting": _waiting_targets,
    "nested": _nested_targets,
    "processes": _process_targets,
    "ray": _ray_targets,
    "costs": _cost_targets,
    "item_task": _item_task_targets,
}


def _of(samples: Sequence[float], form: str, unit: str = "", by: Callable[[Sequence[float]], float] = median) -> str:
    return f"{by(samples):{form}}{unit}" if samples else "-"
