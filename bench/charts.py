"""Charts of the results, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.arms import ARMS, PEERS
from bench.measure import figures
from bench.memory import MEMORY, MEMORY_PEERS
from bench.report import BASELINE, differences

__all__ = ["CHARTS", "draw"]

Measured = Mapping[str, Any]

_OURS, _REFERENCE, _OTHERS, _BY_HAND = "#0b7285", "#e8590c", "#868e96", "#ced4da"
_LINES: Final = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#c2255c", "#1864ab", "#e67700", "#495057")
_DASHES: Final = ("-", "--", ":")
_MARKERS: Final = "os^Dv<>Ph"
_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "bench",  # equal figures give equal files
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9ecef",
    "legend.frameon": False,
}


def draw(results: Mapping[str, Measured], folder: Path) -> list[Path]:
    """Draw every chart whose results exist.

    Args:
        results: JSON by suite.
        folder: Folder of the files.

    Returns:
        The written files.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    written = []
    with mpl.rc_context(_STYLE):
        for name, (needs, make) in CHARTS.items():
            if needs not in results:
                continue
            figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
            make(axes, results)
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
            # matplotlib ends some lines with spaces, which would show in diffs
            path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
            written.append(path)
    return written


def _colour(name: str) -> str:
    if name.startswith("flowrt"):
        return _OURS
    if name.startswith("nadoo"):
        return _REFERENCE
    return _BY_HAND if name.endswith("by-hand") else _OTHERS


def _plain(title: str) -> str:
    return title.replace("`", "")


def _overhead(axes: Any, results: Mapping[str, Measured]) -> None:
    us = _noop_us(results)
    titles = {each.name: _plain(each.title) for each in (*ARMS, *PEERS)}
    names = sorted((name for name in us if name in titles), key=lambda name: -median(us[name]))
    axes.figure.set_size_inches(9, max(3.0, 0.27 * len(names) + 1))
    _bars(axes, [(place, us[name], _colour(name)) for place, name in enumerate(names)], height=0.8)
    axes.set_yticks(range(len(names)), [titles[name] for name in names])
    axes.set_xscale("log")
    axes.set_xlabel("µs an item, no-op (logarithmic)\nbars: medians; whiskers: all rounds")
    axes.margins(x=0.15, y=0.01)
    axes.grid(visible=False, axis="y")


def _bars(axes: Any, rows: Sequence[tuple[float, Sequence[float], str]], height: float, **settings: Any) -> None:
    """Horizontal bars of the medians, with the lowest and the highest sample as whiskers.

    Args:
        axes: Axes to draw on.
        rows: Place, samples and colour of each bar.
        height: Height of a bar.
        settings: Further settings of the bars.
    """
    middles = [median(samples) for _, samples, _ in rows]
    lows = [middle - min(samples) for middle, (_, samples, _) in zip(middles, rows, strict=True)]
    highs = [max(samples) - middle for middle, (_, samples, _) in zip(middles, rows, strict=True)]
    bars = axes.barh(
        [place for place, _, _ in rows],
        middles,
        height=height,
        color=[colour for _, _, colour in rows],
        xerr=[lows, highs],
        error_kw={"ecolor": "#495057", "elinewidth": 0.8, "capsize": 2},
        **settings,
    )
    axes.bar_label(bars, [_two_digits(middle) for middle in middles], padding=4, fontsize=8)


def _cpu(axes: Any, results: Mapping[str, Measured]) -> None:
    """CPU beside wall time where items sleep: wall time hides work that fits into the sleep of other items."""
    works = {work["name"]: work for work in results["overhead"]["workloads"]}
    work = works.get("1ms") or next(iter(works.values()))
    its = figures(work, BASELINE)
    arms = [arm for arm in reversed(ARMS) if its.get(arm.name, {}).get("cpu_us")]
    axes.figure.set_size_inches(9, max(3.0, 0.5 * len(arms) + 1.2))
    for offset, which, label, hatch in (
        (0.2, "overhead_us", "wall time beyond the ideal", None),
        (-0.2, "cpu_us", "CPU of the process, all threads", "///"),
    ):
        rows = [(place + offset, its[arm.name][which], _colour(arm.name)) for place, arm in enumerate(arms)]
        _bars(axes, rows, height=0.38, label=label, hatch=hatch, edgecolor="white")
    axes.set_yticks(range(len(arms)), [_plain(arm.title) for arm in arms])
    axes.set_xscale("symlog", linthresh=1.0)  # wall time beyond the ideal may be below 0 by noise
    axes.set_xlabel(f"µs an item, {work['title']} (logarithmic from 1 on)\nbars: medians; whiskers: all rounds")
    axes.margins(x=0.15)
    axes.grid(visible=False, axis="y")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.13), ncols=2)


def _two_digits(value: float) -> str:
    """A figure with two significant digits: 0.20, 4.2, 21, 5,100."""
    if not value:
        return "0"
    power = math.floor(math.log10(abs(value)))
    return f"{round(value, 1 - power):,.{max(0, 1 - power)}f}"


def _noop_us(results: Mapping[str, Measured]) -> dict[str, list[float]]:
    """Microseconds an item, by round. Peers, measured at another time, count by their ratio to the baseline's round."""

    def of(suite: str, which: str) -> dict[str, list[float]]:
        works = results.get(suite, {}).get("workloads", ())
        noop = next((work for work in works if work["name"] == "noop"), None)
        its = {} if noop is None else figures(noop, BASELINE)
        return {name: samples[which] for name, samples in its.items() if samples[which]}

    here = of("overhead", "overhead_us")
    if BASELINE not in here:
        return here
    baseline_us = median(here[BASELINE])
    there = of("peers", "to_baseline")
    return {name: [ratio * baseline_us for ratio in ratios] for name, ratios in there.items()} | here


def _speedup(axes: Any, results: Mapping[str, Measured]) -> None:
    curves = results["speedup"]["speedup"]
    titles = {each.name: _plain(each.title) for each in ARMS}
    points = [int(point) for point in next(iter(curves.values()))]
    axes.plot(points, points, color="black", linestyle=":", label="ideal")
    for name, curve in curves.items():
        dashed = "--" if "delivered" in name else "-"
        line = {"color": _colour(name), "linestyle": dashed, "marker": "o", "markersize": 3}
        if name in ("floor", "gather"):
            line |= {"color": "#343a40" if name == "floor" else _OTHERS}
        axes.plot(points, [median(samples) for samples in curve.values()], label=titles[name], **line)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("items at once")
    axes.set_ylabel("times as fast as one after the other")
    axes.legend(fontsize=8)


def _memory(axes: Any, results: Mapping[str, Measured]) -> None:
    titles = {each.name: _plain(each.title) for each in (*MEMORY, *MEMORY_PEERS)}
    curves = {**results.get("memory-peers", {}).get("memory", {}), **results["memory"]["memory"]}
    curves = dict(sorted(curves.items(), key=lambda curve: -curve[1]["growth_mib"] / curve[1]["items"]))
    for place, (name, its) in enumerate(curves.items()):
        points = {**{int(items): mib for items, mib in its.get("fewer", {}).items()}, its["items"]: its["growth_mib"]}
        items = sorted(points)
        ours = name.startswith("flowrt")
        axes.plot(
            items,
            [max(0.05, points[each]) for each in items],
            label=titles[name],
            color=_LINES[place % len(_LINES)],
            linestyle=_DASHES[place // len(_LINES) % len(_DASHES)],
            linewidth=2.4 if ours else 1.2,
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=6 if ours else 4,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("items")
    axes.set_ylabel("MiB of growth at the peak (at least 0.05)")
    axes.figure.set_size_inches(9, 5)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), title="most per item first")


def _telemetry(axes: Any, results: Mapping[str, Measured]) -> None:
    left, shown = 0.0, differences(results["parts"])
    palette: Sequence[str] = ("#adb5bd", "#1864ab", "#74c0fc", "#66a80f", "#0b7285", "#f59f00", "#e8590c", "#c2255c")
    for (name, samples), colour in zip(shown, palette, strict=False):
        width = max(0.0, median(samples))
        # a difference of two noisy costs may be below 0: its interval says how little that means
        label = f"{name}: {median(samples):.2f} ({min(samples):.2f} to {max(samples):.2f})"
        axes.barh(["flowrt"], [width], left=left, color=colour, label=label)
        left += width
    noop = next((work for work in results.get("overhead", {}).get("workloads", ()) if work["name"] == "noop"), None)
    if noop is not None and "by-hand" in noop["samples"]:
        us = figures(noop, BASELINE)["by-hand"]["overhead_us"]
        label = f"SDK, prometheus_client, structlog: {median(us):.1f} ({min(us):.1f} to {max(us):.1f})"
        axes.barh(["by hand"], [median(us)], color=_BY_HAND, label=label)
    axes.figure.set_size_inches(9, 3)
    axes.set_xlabel("µs an item, everything on and delivered; in brackets the lowest and the highest round")
    axes.grid(visible=False, axis="y")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


CHARTS: Final[dict[str, tuple[str, Callable[[Any, Mapping[str, Measured]], None]]]] = {
    "overhead": ("overhead", _overhead),
    "cpu": ("overhead", _cpu),
    "speedup": ("speedup", _speedup),
    "memory": ("memory", _memory),
    "telemetry": ("parts", _telemetry),
}
"""Charts by the name of their file, each with the suite that it needs."""
