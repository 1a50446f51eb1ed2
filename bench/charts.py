"""Charts of the results, as SVG."""

from __future__ import annotations

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
_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "bench",  # the same figures are the same file
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
    """Draw every chart for which there are figures.

    Args:
        results: What was measured, by suite.
        folder: Where to.

    Returns:
        The files.
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
            # what draws it ends some lines with spaces, which is nobody's diff
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
    told = _noop_us(results)
    titles = {each.name: _plain(each.title) for each in (*ARMS, *PEERS)}
    names = sorted((name for name in told if name in titles), key=lambda name: -told[name])
    axes.figure.set_size_inches(9, max(3.0, 0.27 * len(names) + 1))
    bars = axes.barh([titles[name] for name in names], [told[name] for name in names], color=list(map(_colour, names)))
    axes.bar_label(bars, [f"{told[name]:,.2f}" for name in names], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("µs that an item costs (no-op; log scale; less is better)")
    axes.margins(x=0.15, y=0.01)
    axes.grid(visible=False, axis="y")


def _noop_us(results: Mapping[str, Measured]) -> dict[str, float]:
    """Microseconds an item. The peers', measured at another time, by their ratio to the baseline of the same round."""

    def of(suite: str, which: str) -> dict[str, float]:
        works = results.get(suite, {}).get("workloads", ())
        noop = next((work for work in works if work["name"] == "noop"), None)
        its = {} if noop is None else figures(noop, BASELINE)
        return {name: median(samples[which]) for name, samples in its.items() if samples[which]}

    here = of("overhead", "overhead_us")
    if BASELINE not in here:
        return here
    return {name: ratio * here[BASELINE] for name, ratio in of("peers", "to_baseline").items()} | here


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
    told = {**results.get("memory-peers", {}).get("memory", {}), **results["memory"]["memory"]}
    for name, its in told.items():
        points = {**{int(items): mib for items, mib in its.get("fewer", {}).items()}, its["items"]: its["growth_mib"]}
        items = sorted(points)
        style = "--" if name.endswith(("stream", "delivered")) else "-"
        axes.plot(
            items,
            [max(0.05, points[each]) for each in items],
            style,
            label=titles[name],
            color=_colour(name) if name.startswith(("flowrt", "nadoo")) else None,
            marker="o",
            markersize=3,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("items")
    axes.set_ylabel("MiB of growth at the peak")
    axes.figure.set_size_inches(9, 5)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def _telemetry(axes: Any, results: Mapping[str, Measured]) -> None:
    left, shown = 0.0, differences(results["parts"])
    palette: Sequence[str] = ("#adb5bd", "#1864ab", "#74c0fc", "#66a80f", "#0b7285", "#f59f00", "#e8590c", "#c2255c")
    for (name, samples), colour in zip(shown, palette, strict=False):
        width = max(0.0, median(samples))
        axes.barh(["flowrt"], [width], left=left, color=colour, label=f"{name}: {median(samples):.2f}")
        left += width
    noop = next((work for work in results.get("overhead", {}).get("workloads", ()) if work["name"] == "noop"), None)
    if noop is not None and "by-hand" in noop["samples"]:
        by_hand = median(figures(noop, BASELINE)["by-hand"]["overhead_us"])
        axes.barh(["by hand"], [by_hand], color=_BY_HAND, label=f"SDK, prometheus_client, structlog: {by_hand:.1f}")
    axes.figure.set_size_inches(9, 3)
    axes.set_xlabel("µs an item, everything on and delivered")
    axes.grid(visible=False, axis="y")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


CHARTS: Final[dict[str, tuple[str, Callable[[Any, Mapping[str, Measured]], None]]]] = {
    "overhead": ("overhead", _overhead),
    "speedup": ("speedup", _speedup),
    "memory": ("memory", _memory),
    "telemetry": ("parts", _telemetry),
}
"""Each chart by its file's name, with the suite that it needs."""
