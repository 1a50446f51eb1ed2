"""Batches recorded in virtual time: a real run under other settings is exact, so forecasts can be checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flowrt import BatchProcessor
from flowrt.whatif import RecordedAttempts
from tests.conftest import Run


class Service:
    """Service whose time differs from item to item, and that fails the first attempts of an item."""

    def __init__(self, fails: Callable[[int], int] = lambda _: 0, straggler: float = 0.0) -> None:
        draw = Random(3)  # noqa: S311  # the same times in each run are the point
        self.takes = [draw.uniform(0.5, 1.5) for _ in range(1000)]
        for place in range(0, 1000, 20):
            self.takes[place] += straggler
        self.fails = fails
        self.tried: dict[int, int] = {}

    async def __call__(self, x: int) -> int:
        await asyncio.sleep(self.takes[x])
        self.tried[x] = self.tried.get(x, 0) + 1
        if self.tried[x] <= self.fails(x):
            raise ConnectionError(f"not yet {x}")
        return x


Record = Callable[..., RecordedAttempts]


@pytest.fixture
def record(run_virtual: Run, tmp_path: Path) -> Record:
    """Runs a batch in virtual time and returns its recorded attempts."""

    def recorded(
        node: Any, *arguments: Any, inputs: Iterable[int] | AsyncIterator[int], **settings: Any
    ) -> RecordedAttempts:
        path = tmp_path / "run.parquet"
        run_virtual(BatchProcessor(node, *arguments, record=path, **settings).batch(inputs))
        return RecordedAttempts.load(path)

    return recorded
