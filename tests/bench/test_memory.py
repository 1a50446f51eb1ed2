"""Measurement of memory, with every item accounted for."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from typing import Any

import pytest

from bench.measure import BenchError, run_module
from bench.memory import MEMORY, MemoryArm, Received, growth_mib, main, measure_memory

BY_NAME = {each.name: each for each in MEMORY}


@pytest.mark.parametrize("name", ["flowrt-stream", "flowrt-processes", "gather"])
def test_memory_arm_runs_in_a_process_of_its_own(name: str) -> None:
    assert run_module("bench.memory", [name, "1500"], name) >= 0


async def _hoard(inputs: Any, received: Received) -> None:
    kept = []
    for index, item in enumerate(inputs):
        kept.append(mmap.mmap(-1, 20_000))  # memory new to the process, which may have free memory of its own
        kept[-1].write(bytes(20_000))
        received.add(index, item["x"])


def test_growth_is_that_of_the_peak() -> None:
    assert growth_mib(MemoryArm("hoard", "", _hoard), 2_000) > 30  # 40 MB, freed when it returns


async def _lose_the_last(inputs: Any, received: Received) -> None:
    for index, item in enumerate(inputs[:-1]):
        received.add(index, item["x"])


def test_arm_that_loses_an_item_has_no_figure() -> None:
    with pytest.raises(BenchError, match="1 of 1000 items did not come back"):
        growth_mib(MemoryArm("lossy", "", _lose_the_last), 2_000)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([1, 2], "1 of 3 items did not come back"),
        ([1, 3, 2], "item 1 came back with 3, not 2"),
        ([None, 2, 3], "item 0 came back with None, not 1"),
    ],
)
def test_missing_or_wrong_item_is_an_error(outputs: list[object], expected: str) -> None:
    def receive() -> None:
        received = Received(3)
        for index, output in enumerate(outputs):
            received.add(index, output)
        received.close()

    with pytest.raises(BenchError, match=re.escape(expected)):
        receive()


def test_item_that_comes_back_twice_is_an_error() -> None:
    received = Received(3)
    received.add(1, 2)
    with pytest.raises(BenchError, match="item 1 came back twice"):
        received.add(1, 2)


def test_rounds_are_interleaved_without_missing_peers() -> None:
    grown = iter([1.0, 5.0, 3.0, 7.0, 2.0, 6.0, 0.1, 0.2, 0.3])
    ran: list[str] = []

    def run(which: MemoryArm, items: int) -> float:
        ran.append(f"{which.name} {items}")
        return next(grown)

    absent = MemoryArm("absent", "", _hoard, needs=("no_such_module",))
    said: list[str] = []
    measured = measure_memory([BY_NAME["floor"], absent, BY_NAME["gather"]], 3, 10, said.append, run)
    assert ran[:6] == ["floor 100000", "gather 10000"] * 3
    assert ran[6:] == ["floor 1000", "floor 10000", "gather 1000"]
    assert measured["missing"] == {"absent": "no_such_module is not installed"}
    assert measured["memory"]["floor"] == {
        "items": 100_000,
        "growth_mib": 2.0,
        "samples_mib": [1.0, 3.0, 2.0],
        "fewer": {"1000": 0.1, "10000": 0.2},
    }
    assert measured["memory"]["gather"]["growth_mib"] == 6.0
    assert said == ["memory: round 1 of 3", "memory: round 2 of 3", "memory: round 3 of 3", "memory: fewer items"]


def test_platform_that_cannot_reset_its_peak_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Callable[..., None]:
        raise PermissionError("no")

    monkeypatch.setattr("bench.memory.Path.write_text", refuse)
    monkeypatch.setattr("bench.memory.last_core", lambda: None)
    with pytest.raises(BenchError, match=r"does not let a process reset its peak memory.*\(no\)"):
        main("floor", 10)
