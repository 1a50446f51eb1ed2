"""Speedup as claimed and as measured."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from flowrt import BatchProcessor, BatchRecord, BatchResults, NodeContext, NodeResult, WorkflowContext
from flowrt._util.cpu_time import CpuTime
from flowrt.attribution.speedup import (
    SequentialEstimate,
    longest_waits,
    speedup_by_sample,
    speedup_in_threads,
    speedup_less_delays,
)
from flowrt.attribution.stalls import DelayTotals, Stall
from flowrt.eventloop.heartbeat import heartbeat_of
from flowrt.model.node import BaseNode

Run = Callable[[Any], Any]
S = 1_000_000_000


class Blocks(BaseNode):
    """Blocks the loop in ten steps."""

    def __init__(self) -> None:
        super().__init__("blocks")

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        for _ in range(10):
            time.sleep(0.01)  # what is tested
            await asyncio.sleep(0)
        return NodeResult(True)


def measured_of(results: BatchResults) -> Any:
    speedup = results.report.speedup
    assert speedup is not None
    return speedup


# -- the headline ------------------------------------------------------------------------------------------------------


def test_nodes_that_block_the_loop_claim_nine_and_measure_one(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "flowrt")
    speedup = measured_of(run(BatchProcessor(Blocks(), 10).batch(range(10))))
    assert speedup.claimed > 5  # about 9, less where a busy machine is slow to start the items
    assert 0.3 < speedup.measured < 4  # about 1
    assert speedup.low <= 1.05
    assert speedup.method == "held"
    assert speedup.diverges
    (found,) = [record.getMessage() for record in caplog.records if "speedup.overstated" in record.getMessage()]
    assert "blocked the event loop" in found


def test_sequential_sample_measures_the_same(run: Run) -> None:
    speedup = measured_of(run(BatchProcessor(Blocks(), 10, speedup_sample=5).batch(range(10))))
    assert speedup.claimed > 5  # about 9, less where a busy machine is slow to start the items
    assert 0.3 < speedup.measured < 4  # about 1: a busy machine holds up the sample, or the batch
    assert (speedup.method, speedup.estimate.size) == ("sample", 5)
    assert speedup.diverges


def test_items_that_wait_outside_are_as_fast_as_claimed(run: Run) -> None:
    async def waits(_: int) -> None:
        await asyncio.sleep(0.1)

    speedup = measured_of(run(BatchProcessor(waits, 10).batch(range(30))))
    assert speedup.measured == pytest.approx(speedup.claimed, rel=0.5)
    assert not speedup.diverges


def test_items_that_compute_on_one_thread_gain_nothing(run: Run) -> None:
    async def computes(_: int) -> None:
        for _ in range(30):
            until = time.thread_time() + 0.001
            while time.thread_time() < until:
                pass
            await asyncio.sleep(0)

    speedup = measured_of(run(BatchProcessor(computes, 10).batch(range(20))))
    assert speedup.claimed > 4
    assert speedup.measured < 0.5 * speedup.claimed


# -- the sample --------------------------------------------------------------------------------------------------------


def test_sample_runs_one_by_one_before_the_batch(run_virtual: Run) -> None:
    running: list[int] = []
    log: list[tuple[int, int]] = []

    async def node(item: dict[str, int]) -> None:
        running.append(1)
        log.append((item["n"], len(running)))
        item["n"] = -1  # on a copy of its own
        await asyncio.sleep(1)
        running.pop()

    items = [{"n": n} for n in range(9)]
    results = run_virtual(BatchProcessor(node, 9, speedup_sample=3).batch(items))
    assert log[:3] == [(1, 1), (4, 1), (7, 1)]
    assert sorted(n for n, _ in log[3:]) == list(range(9))
    assert len(results) == 9
    assert results.wall_time == pytest.approx(1)


def test_stream_takes_its_sample_too(run_virtual: Run) -> None:
    calls: list[int] = []

    async def node(n: int) -> int:
        calls.append(n)
        return n

    async def main() -> list[int]:
        stream = BatchProcessor(node, speedup_sample=2).batch_as_completed([1, 2, 3, 4])
        assert stream.batch is None
        outputs = [result.output async for result in stream]
        assert stream.batch is not None
        assert stream.batch.status == "ok"
        return outputs

    assert sorted(run_virtual(main())) == [1, 2, 3, 4]
    assert len(calls) == 6


def test_iterator_is_not_sampled_and_a_warning_says_so(run_virtual: Run, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    async def node(n: int) -> None:
        calls.append(n)

    run_virtual(BatchProcessor(node, speedup_sample=2).batch(iter([1, 2])))
    assert calls == [1, 2]
    assert "speedup_sample=2 is not used" in caplog.text


def test_empty_input_has_no_sample(run_virtual: Run) -> None:
    results = run_virtual(BatchProcessor(Blocks(), speedup_sample=2).batch([]))
    assert results.report.speedup is None


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "3"])
def test_sample_size_must_be_a_whole_number(wrong: Any) -> None:
    with pytest.raises(ValueError, match="speedup_sample"):
        BatchProcessor(Blocks(), speedup_sample=wrong)


# -- the arithmetic ----------------------------------------------------------------------------------------------------


def test_delays_are_subtracted_from_the_claim() -> None:
    held = DelayTotals(known_ns=3_000_000_000, guessed_ns=2_000_000_000)
    found = speedup_less_delays(10.0, 2.0, held)
    assert (found.claimed, found.measured, found.low, found.high) == (5.0, 3.0, 2.5, 3.5)
    assert found.diverges


def test_likely_delays_count_in_full_but_are_not_certain() -> None:
    held = DelayTotals(known_ns=3_000_000_000, likely_ns=2_000_000_000, guessed_ns=2_000_000_000)
    assert (held.least_ns, held.total_ns, held.most_ns) == (3_000_000_000, 6_000_000_000, 7_000_000_000)


def test_time_in_which_an_item_ran_is_never_subtracted() -> None:
    held = DelayTotals(known_ns=9_500_000_000)
    assert speedup_less_delays(10.0, 2.0, held, running_s=2.0).measured == 1.0
    assert speedup_less_delays(1.0, 2.0, held, running_s=2.0).measured == 0.5  # no more than the claim


def test_samples_of_a_busy_loop_have_a_margin() -> None:
    held = DelayTotals()
    for held_ns in (8_000_000, 10_000_000, 12_000_000):
        held.add_sample(held_ns)
    assert held.total_ns == 30_000_000
    assert held.most_ns - held.total_ns == held.total_ns - held.least_ns == int(2 * 8_000_000**0.5 * 1_000)


@pytest.mark.parametrize(("delays", "measured"), [(None, 9.0), (DelayTotals(known_ns=1_000_000_000), 8.0)])
def test_interval_reaches_down_by_the_waits_for_a_busy_loop(delays: DelayTotals | None, measured: float) -> None:
    found = speedup_less_delays(9.0, 1.0, delays, running_s=1.0, waits_s=3.0)
    assert (found.measured, found.low, found.high) == (measured, measured - 3.0, measured)
    assert speedup_less_delays(9.0, 1.0, delays, running_s=1.0, waits_s=20.0).low == 1.0


def test_waits_that_samples_have_seen_are_no_further_waits() -> None:
    held = DelayTotals()
    held.add_sample(2_000_000_000)
    assert speedup_less_delays(9.0, 1.0, held, waits_s=3.0).low == speedup_less_delays(9.0, 1.0, held).low == 5.0
    assert speedup_less_delays(9.0, 1.0, held, waits_s=5.0).low == 4.0


def test_while_the_loop_runs_one_item_all_others_may_wait() -> None:
    assert longest_waits(S, claimed=5.0, limit=10, items=100) == 9.0
    assert longest_waits(S, claimed=5.0, limit=10, items=4) == 3.0
    assert longest_waits(S, claimed=5.0, limit=2, items=100) == 4.0  # the limit has been lowered
    assert longest_waits(S, claimed=0.5, limit=1, items=1) == 0.0


def test_interval_holds_the_truth_if_timers_of_items_come_due_together(run: Run, monkeypatch: Any) -> None:
    """Ten items wake at once for each to compute 0.4 ms: the loop is busy for 4 of 14 ms, which beats hardly see."""
    cpu_ns = 0
    monkeypatch.setattr("flowrt.eventloop.heartbeat.time.thread_time_ns", lambda: cpu_ns)

    async def main() -> tuple[BatchRecord, float]:
        nonlocal cpu_ns
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="1", limit=10, keeps_ledger=True)
        ledger = batch.ledger
        assert ledger is not None
        batch.started_ns, batch.pulled = time.perf_counter_ns() - 1_350_000_000, 1_000
        ledger.open(batch.started_ns)
        heartbeat.watch(batch)
        cpu_ns += 400_000_000  # of 1.4 s: a hundred turns
        batch.finished_ns = batch.started_ns + 1_400_000_000
        heartbeat.loop_time.due_ns = batch.finished_ns + 1  # the loop is not blocked at the end
        heartbeat.unwatch(batch)
        assert ledger.busy_ns == 400_000_000
        ledger.close(batch.finished_ns)
        batch.service_ns = round(100 * sum(0.010 + 0.0004 * (place + 1) for place in range(10)) * S)
        return batch, 1_000 * 0.0104 / 1.4

    batch, truth = run(main())
    speedup = batch.speedup
    assert speedup is not None
    assert speedup.low < truth < speedup.high
    assert speedup.low > 0.5 * truth  # honest, yet of use


def test_longest_stalls_are_kept_and_all_are_counted() -> None:
    held = DelayTotals()
    for number in range(150):
        held.add_stall(Stall(number, float(number * 7 % 150)))
    assert held.stalled == 150
    assert sorted(stall.duration_s for stall in held.stalls) == [float(number) for number in range(50, 150)]


def in_threads(cpu_s: float, attempts_s: float, wall_s: float = 1.0, blocked_s: float = 0.0) -> Any:
    cpu = CpuTime()
    cpu.cpu_ns, cpu.wall_ns = round(cpu_s * 1e9), round(attempts_s * 1e9)
    return speedup_in_threads(speedup_less_delays(attempts_s, wall_s, DelayTotals()), cpu, wall_s, blocked_s)


def test_threads_that_compute_on_their_own_cores_are_measured_by_cpu_time() -> None:
    found = in_threads(3.6, 4.0)
    assert (found.measured, found.low, found.high, found.method) == pytest.approx((3.8, 3.6, 4.0, "cpu"))


def test_threads_that_wait_outside_keep_the_speedup_less_delays() -> None:
    found = in_threads(0.1, 8.0)
    assert (found.measured, found.low, found.method) == (8.0, 8.0, "held")


@pytest.mark.parametrize(("cpu_s", "blocked_s"), [(0.95, 0.0), (0.2, 0.9)])
def test_threads_that_may_wait_for_each_other_have_an_interval_alone(cpu_s: float, blocked_s: float) -> None:
    found = in_threads(cpu_s, 8.0, blocked_s=blocked_s)
    assert (found.measured, found.low, found.high, found.method) == (None, cpu_s, 8.0, "cpu")
    assert not found.diverges
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["measured"] is None


def test_one_thread_at_a_time_has_nothing_to_wait_for() -> None:
    assert in_threads(0.9, 1.0).measured == 1.0


def test_speedup_that_is_not_known_is_said_so_everywhere(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    from prometheus_client import REGISTRY

    from flowrt.reporting.summary import speedup_rows

    caplog.set_level(logging.INFO, "flowrt")
    name = f"unknown-{time.monotonic_ns()}"

    def mixed(_: int) -> None:
        time.sleep(0.02)
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass

    results = run(BatchProcessor(mixed, 4, name=name).batch(range(12)))
    report = results.report
    assert report.speedup.measured is None
    assert report.speedup.low < report.speedup.high
    assert speedup_rows(report)[0][1].startswith("not known, ")
    assert ">not known<" in report.html()
    labels = {"batch": name, "method": "measured"}
    assert REGISTRY.get_sample_value("flowrt_batch_speedup_ratio", labels) is None
    (completed,) = [text for text in caplog.messages if "batch.completed" in text]
    assert "speedup_measured" not in completed


def test_dict_has_the_method_and_the_interval() -> None:
    found = speedup_by_sample(10.0, 2.0, SequentialEstimate(4, 0.1, 0.01, 0.1, 0.01, 100))
    assert found.as_dict() == pytest.approx(
        {"claimed": 5.0, "measured": 5.0, "low": 4.5, "high": 5.5, "method": "sample", "sample_size": 4}
    )
    assert not found.diverges


def test_sample_of_one_has_no_upper_end_in_json(run_virtual: Run) -> None:
    async def node(x: int) -> None:
        await asyncio.sleep(1)

    results = run_virtual(BatchProcessor(node, 2, speedup_sample=1).batch(range(4)))
    assert results.report.speedup.high == math.inf
    found = json.loads(json.dumps(results.report.as_dict(), allow_nan=False))
    assert (found["speedup"]["sample_size"], found["speedup"]["high"]) == (1, None)


def test_metric_has_both_figures(run: Run) -> None:
    from prometheus_client import REGISTRY

    name = f"both-{time.monotonic_ns()}"
    speedup = measured_of(run(BatchProcessor(Blocks(), 5, name=name).batch(range(5))))
    for method in ("claimed", "measured"):
        labels = {"batch": name, "method": method}
        assert REGISTRY.get_sample_value("flowrt_batch_speedup_ratio", labels) == getattr(speedup, method)


def test_speedup_without_delays_is_the_claim() -> None:
    assert speedup_less_delays(3.0, 2.0, None, 1.5) == speedup_less_delays(3.0, 2.0, DelayTotals(), 1.5)
    assert speedup_less_delays(3.0, 2.0, None).measured == 1.5
