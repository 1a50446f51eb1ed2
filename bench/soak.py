"""Soak test: a million items with all telemetry and a journal on, watched for growth.

`python -m bench.soak` writes `soak.json` and `soak.svg` (memory over items) and ends with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import flowrt
from bench.collector import collector, count_spans
from bench.machine import about, now

__all__ = ["PEAK_MIB", "RATE", "SLOPE_MIB", "Sample", "judge", "main", "slope_per_100k", "soak"]

PEAK_MIB: Final = 300.0
SLOPE_MIB: Final = 1.0  # per 100,000 items, after the warm-up
RATE: Final = 3_000.0  # items a second
FLAT: Final = 5  # most difference in descriptors and tasks after the warm-up
WARM_UP: Final = 0.2  # share of the items after which nothing should grow
_SCRAPE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """State of the process after a number of items.

    Args:
        items: Results taken.
        at_s: Since the start, in seconds.
        rss_mib: Resident memory.
        descriptors: Open file descriptors.
        tasks: Tasks of the event loop.
        threads: Threads.
    """

    items: int
    at_s: float
    rss_mib: float
    descriptors: int
    tasks: int
    threads: int


def take_sample(items: int, at_s: float) -> Sample:
    """Measure now, in the loop's thread."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        items,
        round(at_s, 3),
        round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 3),
        len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # a count, without a path for each
        len(asyncio.all_tasks()),
        threading.active_count(),
    )


def slope_per_100k(samples: list[Sample]) -> float:
    """Memory's growth by least squares, in MiB per 100,000 items; 0 for fewer than two samples."""
    count = len(samples)
    if count < 2:
        return 0.0
    mean_x = sum(sample.items for sample in samples) / count
    mean_y = sum(sample.rss_mib for sample in samples) / count
    spread = sum((sample.items - mean_x) ** 2 for sample in samples)
    return sum((s.items - mean_x) * (s.rss_mib - mean_y) for s in samples) / spread * 100_000 if spread else 0.0


def judge(samples: list[Sample], statuses: dict[str, int], items: int, spans: int) -> dict[str, tuple[float, bool]]:
    """Figures by name, each with True if it meets its target."""
    warm = [sample for sample in samples if sample.items >= WARM_UP * items]
    last = samples[-1]
    fds, tasks = [s.descriptors for s in warm], [s.tasks for s in warm]
    peak, slope, rate = max(s.rss_mib for s in samples), slope_per_100k(warm), last.items / last.at_s
    return {
        "peak RSS, MiB": (peak, peak <= PEAK_MIB),
        "slope, MiB per 100,000 items": (slope, slope <= SLOPE_MIB),
        "items a second": (rate, rate >= RATE),
        "descriptors, highest less lowest": (max(fds) - min(fds), max(fds) - min(fds) <= FLAT),
        "tasks, highest less lowest": (max(tasks) - min(tasks), max(tasks) - min(tasks) <= FLAT),
        "results": (sum(statuses.values()), sum(statuses.values()) == items),
        "item spans delivered": (spans, spans == items),
    }


async def node(x: int) -> int:
    """Wait for a turn of the loop; one item in a hundred fails at first, one in a thousand always."""
    await asyncio.sleep(0)
    if x % 100 == 7 and (x % 1000 == 7 or x not in _tried):
        _tried.add(x)
        raise ConnectionError("not now")
    _tried.discard(x)
    return x


_tried: Final[set[int]] = set()


async def _scrape(url: str) -> None:
    while True:
        await asyncio.sleep(_SCRAPE_S)
        await asyncio.to_thread(lambda: urlopen(url, timeout=30).read())  # noqa: S310  # loopback


async def soak(items: int, concurrency: int, folder: Path, endpoint: str, every: int) -> dict[str, Any]:
    """Run the batch; returns its samples and statuses.

    Args:
        items: Number of items.
        concurrency: Concurrency.
        folder: Folder of the journal.
        endpoint: URL of the OTLP collector.
        every: Results between two samples.
    """
    samples: list[Sample] = []
    statuses: Counter[str] = Counter()
    processor = flowrt.BatchProcessor(
        node,
        concurrency,
        item_timeout=60,
        retry=flowrt.RetryPolicy(2, base=0.01),
        journal=folder / "soak.journal",
        name="soak",
    )
    inputs: Iterator[int] = iter(range(items))
    async with flowrt.Runtime(
        service_name="soak", metrics_port=0, otlp_endpoint=endpoint, log_format="json", flush_timeout=60
    ) as runtime:
        assert runtime.metrics_url is not None
        scraping = asyncio.create_task(_scrape(runtime.metrics_url))
        taken, began_s = 0, time.perf_counter()
        async with processor.batch_as_completed(inputs) as results:
            async for result in results:
                statuses[result.status] += 1
                taken += 1
                if taken % every == 0 or taken == items:
                    samples.append(take_sample(taken, time.perf_counter() - began_s))
        scraping.cancel()
        await asyncio.wait([scraping])
    return {"samples": samples, "statuses": dict(statuses)}


def draw(samples: list[Sample], path: Path) -> None:
    """Draw memory over items."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4))
    axes.plot([s.items / 1e6 for s in samples], [s.rss_mib for s in samples], color="#1f6feb")
    axes.axvline(WARM_UP * samples[-1].items / 1e6, color="#999999", linestyle=":", label="warm-up")
    axes.set(xlabel="million items", ylabel="resident memory, MiB", title="Memory over items, everything on")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run the soak test, write its record and print its figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("soak"), help="the folder to write to")
    parser.add_argument("--no-picture", action="store_true")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    every = max(1, options.items // 200)

    with collector() as url, tempfile.TemporaryDirectory() as scratch:
        # log events go to a file, as a service's would; what this command prints goes to the caller
        stderr = os.dup(2)
        with (Path(scratch) / "soak.log").open("wb") as log:
            os.dup2(log.fileno(), 2)
            try:
                run = flowrt.run(soak(options.items, options.concurrency, Path(scratch), url, every), log_level="ERROR")
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
        spans = count_spans(url)
    samples: list[Sample] = run["samples"]
    verdict = judge(samples, run["statuses"], options.items, spans)
    cpu_s = sum(os.times()[:2])  # of this process alone
    record = {
        "cpu_s": cpu_s,
        "machine": about(),
        "at": now(),
        "items": options.items,
        "concurrency": options.concurrency,
        "statuses": run["statuses"],
        "figures": {name: {"value": value, "met": met} for name, (value, met) in verdict.items()},
        "samples": [asdict(sample) for sample in samples],
    }
    (options.output / "soak.json").write_text(json.dumps(record, indent=1) + "\n")
    if not options.no_picture:
        draw(samples, options.output / "soak.svg")
    width = max(map(len, verdict))
    for name, (value, met) in verdict.items():
        print(f"{name:<{width}}  {value:>12,.2f}  {'met' if met else 'MISSED'}")
    print(f"{'items per second of CPU time':<{width}}  {options.items / cpu_s:>12,.2f}")
    return 0 if all(met for _, met in verdict.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
