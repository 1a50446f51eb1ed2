"""Fixtures: recordings of small batches in virtual time, so that every figure is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowrt import BatchProcessor, RetryPolicy
from flowrt.recording.parquet import read_recording
from flowrt.reporting.attempts import Attempts
from flowrt.reporting.figures import Detail, detail_of
from flowrt.testing import ScriptedNode, raises, sleeps
from tests.conftest import Run

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;"

Load = Callable[[Path], Detail]


async def job(x: int) -> int:
    """Node: item 3 is a straggler, item 5 fails with a hostile text."""
    await asyncio.sleep(2.0 if x == 3 else 0.1)
    if x == 5:
        raise ValueError(HOSTILE)
    return x


def fails_once(item: int) -> ScriptedNode:
    """Node whose first attempt at one item fails."""
    return ScriptedNode(job, items={item: [sleeps(0.1, then=raises(ConnectionError("once"))), job]})


@pytest.fixture
def recording(run_virtual: Run, tmp_path: Path) -> Path:
    """Recording of 20 items on four slots, with a hostile name."""
    path = tmp_path / "run.parquet"
    policy = RetryPolicy(2, on=ConnectionError, wait=lambda _: 0.3)
    processor = BatchProcessor(fails_once(7), 4, retry=policy, record=path, name=f"crawl {HOSTILE}")
    run_virtual(processor.batch(range(20)))
    return path


@pytest.fixture
def load() -> Load:
    """Load the figures of a recording."""

    def loaded(path: Path) -> Detail:
        meta, table = read_recording(path)
        return detail_of(meta, Attempts.of_table(table))

    return loaded


@pytest.fixture
def detail(recording: Path, load: Load) -> Detail:
    """Figures of `recording`."""
    return load(recording)


def attempts_of(rows: list[dict[str, Any]]) -> Attempts:
    """Return attempts from rows. Missing keys get the values of a successful first attempt."""
    import numpy as np

    def column(name: str, default: Callable[[int, dict[str, Any]], Any], kind: Any = np.int64) -> Any:
        return np.array([row.get(name, default(at, row)) for at, row in enumerate(rows)], kind)

    return Attempts(
        index=column("index", lambda at, row: at),
        attempt=column("attempt", lambda at, row: 1),
        arrival=column("start", lambda at, row: 0),
        slot=column("start", lambda at, row: 0),
        start=column("start", lambda at, row: 0),
        end=column("end", lambda at, row: 0),
        ran=column("ran", lambda at, row: True, bool),
        outcome=column("outcome", lambda at, row: 0),
        cause=column("cause", lambda at, row: -1),
        last=column("last", lambda at, row: True, bool),
        pulled=column("start", lambda at, row: 0),
        hedge=column("hedge", lambda at, row: False, bool),
    )
