"""Items delayed while the loop was blocked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from flowrt import BatchProcessor, BatchResults, Runtime, Telemetry
from flowrt.eventloop import delayed_items
from flowrt.model import BatchRecord, Slot, make_record

Run = Callable[[Any], Any]
Events = list[dict[str, Any]]


def make_one_blocks() -> Callable[[int], Any]:
    """A node for eight items: item 2 blocks the loop as soon as the others wait, six of them for less time."""
    waiting: list[int] = []
    all_wait = asyncio.Event()

    async def one_blocks(number: int) -> int:
        if number == 2:
            await all_wait.wait()
            time.sleep(0.6)  # what is tested
            return number
        waiting.append(number)
        if len(waiting) == 7:
            all_wait.set()
        await asyncio.sleep(3.0 if number == 3 else 0.2)
        await asyncio.sleep(0.01)
        return number

    return one_blocks


def run_with_stall(run: Run) -> BatchResults:
    results: BatchResults = run(BatchProcessor(make_one_blocks(), 8).batch(range(8)))
    assert results.success_rate == 1.0
    return results


def test_items_ready_during_a_stall_know_their_delay(run: Run) -> None:
    results = run_with_stall(run)
    held = [result.held_time for result in results]
    ready = [0, 1, 4, 5, 6, 7]
    assert all(0.1 < held[index] < 5 for index in ready)
    assert max(held[2], held[3]) < min(held[index] for index in ready)  # little, on a busy machine
    (stall, *_) = sorted(results.report.stalls, key=lambda each: -each.duration_s)
    assert 0.4 < stall.duration_s < 5
    assert stall.delayed == len(ready)
    assert sorted(index for index, _ in stall.victims) == ready
    assert 0.5 * sum(held) < stall.held_s <= sum(held) + 1e-6
    assert stall.stack == ""  # no watchdog without a Runtime
    assert stall.as_dict()["culprit"] == "not known"


def test_watchdog_names_the_culprit_of_a_stall(run: Run, events: Events) -> None:
    async def main() -> BatchResults:
        async with Runtime():
            return await BatchProcessor(make_one_blocks(), 8, name="stalling").batch(range(8))

    results = run(main())
    report = results.report
    (stall, *_) = sorted(report.stalls, key=lambda each: -each.duration_s)
    assert (stall.batch, stall.node, stall.item_index) == ("stalling", "one_blocks", 2)
    assert stall.culprit == "one_blocks item 2"
    assert stall.stack.endswith("one_blocks: time.sleep(0.6)  # what is tested")
    assert stall.trace_id == results[2].trace_id
    assert stall.delayed == 6
    (event,) = [event for event in events if event["event"] == "loop.blocked" and event.get("node") == "one_blocks"]
    assert event["delayed"] == 6
    assert event["held_s"] == pytest.approx(stall.held_s, abs=0.002)
    assert "by node 'one_blocks'" in report.explanation
    assert report.detail.stalls[0]["victims"] == 6


def test_spans_show_the_culprit_and_the_delays_of_a_stall(run: Run, spans: Callable[[], list[ReadableSpan]]) -> None:
    async def main() -> None:
        async with Runtime():
            await BatchProcessor(make_one_blocks(), 8).batch(range(8))

    run(main())
    by_index = {span.attributes["flowrt.item.index"]: span for span in spans() if span.name == "process one_blocks"}
    (event,) = [event for event in by_index[2].events if event.name == "loop.blocked"]
    assert event.attributes["flowrt.blocked.seconds"] >= 0.05
    assert "time.sleep(0.6)" in event.attributes["code.stacktrace"]
    held = {index: span.attributes.get("flowrt.item.held") for index, span in by_index.items()}
    assert all(0.1 < held[index] < 5 for index in (0, 1, 4, 5, 6, 7))
    assert all(held[index] is None or held[index] < 0.1 for index in (2, 3))  # little, on a busy machine


@pytest.mark.parametrize(("late_s", "reported"), [(0.05, False), (0.2, True)])
def test_delay_goes_to_spans_after_a_stall_alone_and_at_their_end(late_s: float, reported: bool) -> None:
    """Setting it on the spans at once would make a busy loop late the next time, too."""
    batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="0", limit=600, keeps_ledger=True)
    for index in range(600):
        slot = Slot()
        slot.item = make_record(batch, index, None, 1)
        slot.item.started_ns = 1
        slot.item.trace = Mock()
        slot.task = Mock(_fut_waiter=None)
        batch.slots.append(slot)
    delayed_items.Lateness(1, 1, 1 + int(late_s * 1e9)).look(batch)
    items = [slot.item for slot in batch.slots if slot.item is not None]
    assert all(item.held_ns > 0 for item in items)
    assert {item.stalled_ns for item in items} == ({items[0].held_ns} if reported else {0})
    assert not any(item.trace.mock_calls for item in items)


def test_loop_that_turns_in_time_delays_no_item(run: Run) -> None:
    async def node(_: int) -> None:
        await asyncio.sleep(0.1)

    results = run(BatchProcessor(node, 5).batch(range(10)))
    assert all(result.held_time < 1 for result in results)


def test_batch_that_ends_in_the_blocked_turn_has_the_stall(run: Run) -> None:
    async def node(_: int) -> None:
        time.sleep(0.4)  # what is tested

    results = run(BatchProcessor(node, 1).batch([1]))
    (stall,) = results.report.stalls
    assert stall.duration_s > 0.3
    assert stall.delayed == 0


@pytest.mark.parametrize("culprit", [0, 1])
@pytest.mark.parametrize("runtime", [False, True])
def test_items_that_ran_and_wait_again_after_a_stall_are_delayed(run: Run, culprit: int, runtime: bool) -> None:
    results = run_same_turn(run, culprit, goes_on=True, runtime=runtime)
    after = range(culprit + 1, 5)
    (stall, *_) = sorted(results.report.stalls, key=lambda each: -each.duration_s)
    assert {index for index, _ in stall.victims} >= set(after)
    assert stall.delayed <= 4  # one of the five had the loop
    assert all(0.2 < results[index].held_time < 5 for index in after)
    speedup = results.report.speedup
    truth = speedup.claimed - len(after) * stall.duration_s / results.wall_time
    assert speedup.low - 0.1 <= truth <= speedup.high + 0.1


@pytest.mark.parametrize("runtime", [False, True])
def test_items_whose_timers_came_due_in_a_stall_and_went_on_are_delayed(run: Run, runtime: bool) -> None:
    results = run_same_turn(run, 0, goes_on=True, runtime=runtime, timers=True)
    (stall, *_) = sorted(results.report.stalls, key=lambda each: -each.duration_s)
    assert sorted(index for index, _ in stall.victims) == [1, 2, 3, 4]


def test_item_that_waits_for_the_same_future_is_not_delayed(run: Run) -> None:
    """Its future stays the same, also if another item goes on."""
    go = asyncio.Event()

    async def node(number: int) -> None:
        if number:
            await asyncio.sleep(1.0)
            return
        await asyncio.sleep(0.1)
        time.sleep(0.5)  # what is tested
        await go.wait()

    async def main() -> BatchResults:
        asyncio.get_running_loop().call_later(0.8, go.set)
        results: BatchResults = await BatchProcessor(node, 3).batch(range(3))
        return results

    results = run(main())
    (stall, *_) = sorted(results.report.stalls, key=lambda each: -each.duration_s)
    assert stall.delayed == 0


def test_a_beat_notes_a_bounded_number_of_items() -> None:
    batches = []
    for _ in range(300):
        batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="0", limit=2, keeps_ledger=True)
        for index in range(2):
            slot = Slot()
            slot.item = make_record(batch, index, None, 1)
            slot.task = Mock(_fut_waiter=object())
            batch.slots.append(slot)
        batches.append(batch)
    assert len(delayed_items.note_waiting(batches[:10])) == 20
    assert len(delayed_items.note_waiting(batches)) <= 128


def same_turn(culprit: int, *, goes_on: bool, timers: bool = False) -> tuple[Callable[[int], Any], Callable[[], Any]]:
    """A node whose five items become ready in one turn of the loop, in which one of them blocks it."""
    go = asyncio.Event()

    async def node(number: int) -> int:
        await (asyncio.sleep(0.15) if timers else go.wait())
        if number == culprit:
            time.sleep(0.5)  # what is tested
        if goes_on:
            await asyncio.sleep(1.0)
        return number

    async def release() -> None:
        await asyncio.sleep(0.06)  # a beat comes through
        go.set()

    return node, release


def run_same_turn(
    run: Run,
    culprit: int,
    *,
    goes_on: bool,
    stream: bool = False,
    runtime: bool = False,
    timers: bool = False,
    **options: Any,
) -> Any:
    async def main() -> Any:
        node, release = same_turn(culprit, goes_on=goes_on, timers=timers)
        releasing = asyncio.create_task(release())
        processor = BatchProcessor(node, 5, name="same-turn", **options)
        if stream:
            found = [result async for result in processor.batch_as_completed(range(5))]
        elif runtime:
            async with Runtime(log_level="ERROR"):
                found = await processor.batch(range(5))
        else:
            found = await processor.batch(range(5))
        await releasing
        return found

    return run(main())


@pytest.mark.parametrize("culprit", [0, 2])
@pytest.mark.parametrize("options", [{}, {"telemetry": Telemetry(metrics=False)}], ids=["default", "without metrics"])
def test_items_that_end_in_the_culprits_turn_are_delayed(run: Run, culprit: int, options: dict[str, Any]) -> None:
    results = run_same_turn(run, culprit, goes_on=False, **options)
    after = list(range(culprit + 1, 5))
    assert all(0.4 < results[index].held_time < 5 for index in after)
    assert all(results[index].held_time < 0.4 for index in range(culprit + 1))
    (stall, *_) = sorted(results.report.stalls, key=lambda each: -each.duration_s)
    assert sorted(index for index, _ in stall.victims) == after
    assert stall.held_s > 0.4 * len(after)


def test_items_of_a_stream_that_end_in_the_culprits_turn_are_delayed(run: Run) -> None:
    results = run_same_turn(run, 0, goes_on=False, stream=True)
    assert sum(result.held_time > 0.4 for result in results) == 4


def test_watchdog_finds_delayed_items_that_went_on_to_wait(run: Run) -> None:
    results = run_same_turn(run, 1, goes_on=True, runtime=True)
    (stall, *_) = sorted(results.report.stalls, key=lambda each: -each.duration_s)
    assert stall.item_index == 1
    assert sorted(index for index, _ in stall.victims) == [2, 3, 4]
    assert all(0.3 < results[index].held_time < 5 for index in (2, 3, 4))
    assert results.report.speedup.low <= 5.0 - 3 * 0.3
