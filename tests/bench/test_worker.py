"""One run of an arm, timed and checked."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import pytest

from bench import worker
from bench.arms import Arm, Load, arm
from bench.collector import collector, count_spans
from bench.measure import run_once
from bench.service import http_service
from bench.workloads import workload

REFERENCE = pytest.param("nadoo", marks=pytest.mark.parts)  # installed for the main Python only


@pytest.mark.parametrize("name", ["gather", "flowrt-metrics", "flowrt-default"])
def test_arm_runs_in_a_process_of_its_own_and_is_timed(name: str) -> None:
    sample = run_once(arm(name), workload("yield").of(200), {}, None)
    assert sample["wall_s"] > 0
    assert sample["peak_kib"] > 1_000


@pytest.mark.parametrize("name", ["flowrt-delivered", "by-hand"])
def test_spans_are_counted_at_the_collector(name: str) -> None:
    with collector() as url:
        sample = run_once(arm(name), workload("yield").of(200), {"BENCH_COLLECTOR": url}, None)
        assert sample["delivered"] == 200
        assert count_spans(url) == 0


@pytest.mark.parametrize("name", ["floor", REFERENCE, "flowrt-delivered", "by-hand"])
def test_flaky_item_is_retried_and_counts_once(name: str) -> None:
    with collector() as url:
        sample = run_once(arm(name), workload("flaky").of(50), {"BENCH_COLLECTOR": url}, None)
    assert sample.get("delivered", 50) == 50
    assert sample["wall_s"] >= 2 * 0.01


@pytest.mark.parametrize("name", ["lognormal", "heavy", "cpu"])
def test_every_kind_of_work_returns_each_item_s_output(name: str) -> None:
    assert run_once(arm("flowrt-bare"), workload(name).of(50), {}, None)["items"] == 50


def test_http_workload_asks_a_service_in_another_process() -> None:
    with http_service(0.01) as url:
        sample = run_once(arm("flowrt-bare"), workload("http").of(50), {"BENCH_HTTP": url}, None)
    assert sample["wall_s"] >= 0.01


async def reversed_outputs(load: Load) -> list[int]:
    return [item["x"] for item in reversed(load.inputs)]


async def doubled_outputs(load: Load) -> list[int]:
    return [load.inputs[0]["x"], *(item["x"] for item in load.inputs)]


async def without_collection(load: Load) -> list[int]:
    gc.disable()
    return [item["x"] for item in load.inputs]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (reversed_outputs, "wrong gave wrong outputs for noop"),
        (doubled_outputs, "wrong gave wrong outputs for noop"),
        (without_collection, "wrong switched the garbage collector off"),
    ],
)
def test_run_whose_figures_would_not_compare_is_an_error(
    broken: Callable[[Load], Awaitable[list[int]]], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "arm", lambda _: Arm("wrong", "wrong", broken))
    try:
        with pytest.raises(ValueError, match=expected):
            worker.main("wrong", "noop", 10, None)
    finally:
        gc.enable()
