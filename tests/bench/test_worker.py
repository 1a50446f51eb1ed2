"""One run of an arm: timed, and checked."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import pytest

from bench import worker
from bench.arms import Arm, Inputs, arm
from bench.collector import collector, count_spans
from bench.measure import run_once
from bench.workloads import Workload, workload


@pytest.mark.parametrize("name", ["floor", "gather", "flowrt-bare", "flowrt-metrics", "flowrt-default"])
def test_an_arm_runs_in_a_process_of_its_own_and_is_timed(name: str) -> None:
    sample = run_once(arm(name), workload("yield").cut(500), "", None)
    assert sample["wall_s"] > 0
    assert sample["peak_kib"] > 1_000


@pytest.mark.parametrize("name", ["flowrt-delivered", "by-hand"])
def test_spans_are_counted_where_they_arrive(name: str) -> None:
    with collector() as url:
        sample = run_once(arm(name), workload("yield").cut(500), url, None)
        assert sample["delivered"] == 200
        assert count_spans(url) == 0


async def reversed_outputs(_: Workload, inputs: Inputs) -> list[int]:
    return [item["x"] for item in reversed(inputs)]


async def doubled_outputs(_: Workload, inputs: Inputs) -> list[int]:
    return [inputs[0]["x"], *(item["x"] for item in inputs)]


async def without_collection(_: Workload, inputs: Inputs) -> list[int]:
    gc.disable()
    return [item["x"] for item in inputs]


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (reversed_outputs, "wrong gave wrong outputs for noop"),
        (doubled_outputs, "wrong gave wrong outputs for noop"),
        (without_collection, "wrong switched the garbage collector off"),
    ],
)
def test_a_run_whose_figures_would_not_compare_is_an_error(
    broken: Callable[[Workload, Inputs], Awaitable[list[int]]], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "arm", lambda _: Arm("wrong", "wrong", broken))
    try:
        with pytest.raises(ValueError, match=told):
            worker.main("wrong", "noop", 10, None)
    finally:
        gc.enable()
