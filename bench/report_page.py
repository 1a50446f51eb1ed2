"""Cost of a report: time of the command, and sizes of page and recording."""

from __future__ import annotations

import heapq
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.machine import about
from bench.measure import BenchError

__all__ = ["measure_page", "write_recording"]

_ITEMS: Final = 1_000_000
_SLOTS: Final = 100
_GROUP: Final = 65_536
_HOOKED: Final = 2_000
_HOOK_RUNS: Final = 200


def measure_page(rounds: int, cut: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Make a recording like a batch's, and time `flowrt report FILE -o PAGE` in a process of its own.

    Args:
        rounds: Runs of the command.
        cut: Divisor of the number of items.
        say: Reports the progress.

    Raises:
        BenchError: The command failed.
    """
    items = _ITEMS // cut
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file, page = Path(folder) / "run.parquet", Path(folder) / "page.html"
        say(f"a recording of {items:,} items")
        write_recording(file, items)
        samples, hook_us = [], []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            command = [sys.executable, "-m", "flowrt", "report", str(file), "-o", str(page)]
            began = time.perf_counter()
            done = subprocess.run(command, check=False, capture_output=True, text=True, env=dict(os.environ))
            samples.append(time.perf_counter() - began)
            hook_us.append(_hook_us(Path(folder)))
            if done.returncode:
                raise BenchError(f"flowrt report failed: {done.stderr.strip()}")
        sizes = {"recording_bytes": file.stat().st_size, "page_bytes": page.stat().st_size}
    page_figures = {"items": items, "seconds": samples, "hook_us": hook_us, **sizes}
    return {"page": page_figures, "rounds": rounds, "missing": {}, "machine": about()}


def _hook_us(folder: Path) -> float:
    """Microseconds of the recorder on the loop for an item: the best of many short runs."""
    from flowrt.model import BatchRecord, make_record
    from flowrt.recording.recorder import Recorder

    batch = BatchRecord(name="bench", node_id="bench", node_type="bench", batch_id="0" * 32, limit=1)
    items = []
    for index in range(_HOOKED):
        item = make_record(batch, index, None, 1_000 * index + 1)
        item.attempts, item.status = 1, "ok"
        item.started_ns, item.finished_ns = item.pulled_ns, item.pulled_ns + 100_000
        items.append(item)
    best = float("inf")
    for _ in range(_HOOK_RUNS):
        recorder = Recorder(folder / "unused.parquet", {})
        hook = recorder.item_finished
        began = time.perf_counter()
        for item in items:
            hook(item)
        best = min(best, time.perf_counter() - began)
    return best / _HOOKED * 1e6


def write_recording(file: Path, items: int) -> None:
    """Write a recording of calls of about 10 ms on 100 slots, with stragglers and 1 % failures.

    Args:
        file: Path of the recording.
        items: Number of items.
    """
    from flowrt.recording.columns import PACK, RowBuffer
    from flowrt.recording.parquet import GroupWriter

    draw = random.Random(7)  # noqa: S311  # the same recording each time
    free = [(0, slot) for slot in range(_SLOTS)]
    ended = []
    for item in range(items):
        pulled, slot = heapq.heappop(free)
        takes = int(draw.lognormvariate(2.3, 0.5) * 1e6) * (30 if draw.random() < 0.0005 else 1)
        heapq.heappush(free, (pulled + takes, slot))
        ended.append((pulled + takes, item, pulled, draw.random() < 0.01))
    ended.sort()
    writer = GroupWriter(file, 0)
    rows = RowBuffer()
    for end, item, pulled, failed in ended:
        if failed:
            rows.add(item, pulled + 1, end, 1, "failed", 0, last=True, arrival_ns=pulled, slot_ns=pulled)
        else:
            rows.packed.append(PACK(item, pulled, pulled + 1, end))
        if len(rows) >= _GROUP:
            writer.write(rows)
            rows = RowBuffer()
    if len(rows):
        writer.write(rows)
    cause = {
        "type": "HTTPError", "text": "503", "kind": "error", "http_status": 503, "where": None, "raised": True,
        "count": 1, "examples": [],
    }  # fmt: skip
    meta = {"batch": "bench", "wall_ns": ended[-1][0], "limits": [[0, _SLOTS]], "causes": [cause]}
    writer.close({"format": "flowrt.recording", "version": 1, **meta})
