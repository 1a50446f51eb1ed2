"""Who was held up while the loop was blocked, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from flowrt import BatchProcessor, BatchResults, Runtime
from flowrt.attribution.ledger import Ledger
from flowrt.eventloop import delayed_items
from flowrt.model import BatchRecord, ItemRecord, Slot

Run = Callable[[Any], Any]
Events = list[dict[str, Any]]


async def one_blocks(number: int) -> int:
    if number == 2:
        await asyncio.sleep(0.05)
        time.sleep(0.6)  # what is tested
    elif number == 3:
        await asyncio.sleep(2.0)  # not ready before the stall is over
    else:
        await asyncio.sleep(0.2)  # ready while the loop is blocked
        await asyncio.sleep(0.01)
    return number


def run_with_stall(run: Run) -> BatchResults:
    results: BatchResults = run(BatchProcessor(one_blocks, 8).batch(range(8)))
    assert results.success_rate == 1.0
    return results


def test_the_items_that_could_have_gone_on_know_that_they_were_held(run: Run) -> None:
    results = run_with_stall(run)
    held = [result.held_time for result in results]
    ready = [0, 1, 4, 5, 6, 7]
    assert all(0.1 < held[index] < 5 for index in ready)
    assert max(held[2], held[3]) < min(held[index] for index in ready)  # little, from a machine that is busy
    (stall, *_) = sorted(results.report.stalls, key=lambda each: -each.duration_s)
    assert 0.4 < stall.duration_s < 5
    assert stall.delayed == len(ready)
    assert sorted(index for index, _ in stall.victims) == ready
    assert 0.5 * sum(held) < stall.held_s <= sum(held) + 1e-6
    assert stall.stack == ""  # nobody watches without a Runtime
    assert stall.as_dict()["culprit"] == "not known"


def test_a_watchdog_names_the_culprit_of_a_stall(run: Run, events: Events) -> None:
    async def main() -> BatchResults:
        async with Runtime():
            return await BatchProcessor(one_blocks, 8, name="stalling").batch(range(8))

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


def test_the_culprit_s_span_has_an_event_and_the_victims_spans_what_they_were_held(
    run: Run, spans: Callable[[], list[ReadableSpan]]
) -> None:
    async def main() -> None:
        async with Runtime():
            await BatchProcessor(one_blocks, 8).batch(range(8))

    run(main())
    by_index = {span.attributes["flowrt.item.index"]: span for span in spans() if span.name == "process one_blocks"}
    (event,) = [event for event in by_index[2].events if event.name == "loop.blocked"]
    assert event.attributes["flowrt.blocked.seconds"] >= 0.05
    assert "time.sleep(0.6)" in event.attributes["code.stacktrace"]
    held = {index: span.attributes.get("flowrt.item.held") for index, span in by_index.items()}
    assert all(0.1 < held[index] < 5 for index in (0, 1, 4, 5, 6, 7))
    assert all(held[index] is None or held[index] < 0.1 for index in (2, 3))  # as above


@pytest.mark.parametrize(("late_s", "told"), [(0.05, False), (0.2, True)])
def test_only_after_a_stall_do_spans_tell_of_it_and_not_while_the_loop_is_late(late_s: float, told: bool) -> None:
    """Else telling them would be what makes a busy loop late the next time."""
    batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="0", limit=600)
    batch.ledger = Ledger(batch)
    for index in range(600):
        slot = Slot()
        slot.item = ItemRecord(batch, index, None, 1)
        slot.item.started_ns = 1
        slot.item.span = Mock()
        slot.task = Mock(_fut_waiter=None)
        batch.slots.append(slot)
    delayed_items.Lateness(1, 1, 1 + int(late_s * 1e9)).look(batch)
    items = [slot.item for slot in batch.slots if slot.item is not None]
    assert all(item.held_ns > 0 for item in items)
    assert {item.stalled_ns for item in items} == ({items[0].held_ns} if told else {0})
    assert not any(item.span.mock_calls for item in items)


def test_a_loop_that_turns_holds_nobody(run: Run) -> None:
    async def node(_: int) -> None:
        await asyncio.sleep(0.1)

    results = run(BatchProcessor(node, 5).batch(range(10)))
    assert all(result.held_time < 1 for result in results)


def test_a_batch_that_ends_within_the_turn_that_blocked_knows_of_the_stall(run: Run) -> None:
    async def node(_: int) -> None:
        time.sleep(0.4)  # what is tested

    results = run(BatchProcessor(node, 1).batch([1]))
    (stall,) = results.report.stalls
    assert stall.duration_s > 0.3
    assert stall.delayed == 0
