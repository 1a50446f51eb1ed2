"""Watchdog on loops that really block."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

import flowrt
from flowrt import BatchProcessor, Runtime
from flowrt.engine.batch_run import active_batches
from flowrt.model import BatchRecord, make_record
from flowrt.telemetry.watchdog import Watchdog, _stack
from tests.threads import assert_no_thread_left

Run = Callable[[Any], Any]
Sample = Callable[..., float]
Events = list[dict[str, Any]]


def blocked(events: Events) -> Events:
    return [event for event in events if event["event"] == "loop.blocked"]


def watching(loop: asyncio.AbstractEventLoop, stall_after_s: float = 0.1) -> Watchdog:
    watchdog = Watchdog(loop, lambda: [s.batch for s in active_batches(loop)], stall_after_s)
    watchdog.start()
    return watchdog


def repeat(attempt: Callable[[], Any], until: Callable[[], object]) -> Any:
    """Stall until the stall is reported: one in which a busy machine suspends the process may not be.

    Returns:
        What the last attempt returned.
    """
    deadline = time.monotonic() + 60.0
    while True:
        result = attempt()
        if until() or time.monotonic() > deadline:
            return result


def test_blocking_node_is_named_with_stack_while_healthz_answers(run: Run, events: Events, sample: Sample) -> None:
    blocking = threading.Event()

    def deep_inside() -> None:
        blocking.set()
        until = time.monotonic() + 60.0
        time.sleep(2.0)  # the culprit
        while not answered and time.monotonic() < until:  # on a busy machine
            time.sleep(0.1)
        unblocked.append(time.monotonic())

    async def culprit(item: int) -> int:
        await asyncio.sleep(0.01)
        if item == 5:
            deep_inside()
        return item

    answered: list[float] = []
    unblocked: list[float] = []

    def ask(url: str) -> None:
        blocking.wait(30.0)
        time.sleep(0.1)
        with urllib.request.urlopen(f"{url}/healthz", timeout=30.0) as answer:  # noqa: S310  # our own http URL
            assert answer.read() == b"ok\n"
        answered.append(time.monotonic())

    async def main() -> None:
        async with Runtime(metrics_port=0, stall_after=1.0) as runtime:  # longer than the stalls of a busy machine
            assert runtime.metrics_url is not None
            thread = threading.Thread(target=ask, args=(runtime.metrics_url.removesuffix("/metrics"),))
            thread.start()
            results = await BatchProcessor(culprit, max_concurrency=2, name="stalls").batch(range(8))
            assert results.success_rate == 1.0
            await asyncio.to_thread(thread.join)
            await asyncio.sleep(0.2)  # a heartbeat, which ends the stall

    BatchProcessor(culprit)  # declares its series
    before = sample("flowrt_loop_stalls_total", node="culprit")
    run(main())
    assert answered[0] < unblocked[0]
    assert sample("flowrt_loop_stalls_total", node="culprit") == before + 1
    (event,) = [event for event in blocked(events) if event.get("node")]  # a busy machine has stalls without a node
    assert event["level"] == "warning"
    assert (event["batch"], event["node"], event["item_index"]) == ("stalls", "culprit", 5)
    assert 1.5 < event["duration_s"] < 60.0
    lines = event["stack"].splitlines()
    assert "in " in lines[-1]
    assert lines[-1].endswith("deep_inside: time.sleep(2.0)  # the culprit")
    assert lines[-2].endswith("culprit: deep_inside()")
    package = f"{Path(flowrt.__file__).parent}{os.sep}"  # the checkout's folder may be called flowrt too
    assert not any(package in line for line in lines)


def test_stall_outside_any_batch_is_counted_for_no_node(run: Run, events: Events, sample: Sample) -> None:
    async def main() -> None:
        watchdog = watching(asyncio.get_running_loop(), 0.3)  # longer than the stalls of a busy machine
        await asyncio.sleep(0.06)
        time.sleep(0.9)  # the stall
        await asyncio.sleep(0.2)
        watchdog.stop()

    repeat(lambda: run(main()), until=lambda: blocked(events))
    (event,) = blocked(events)
    assert "node" not in event
    assert event["task"]
    assert "time.sleep(0.9)" in event["stack"]
    assert sample("flowrt_loop_stalls_total", node="none") >= 1


def test_garbage_collection_is_reported_and_no_node_blamed(run: Run, events: Events, sample: Sample) -> None:
    def slow(phase: str, _: dict[str, Any]) -> None:
        if phase == "start":
            time.sleep(0.5)  # a heap of some million objects

    async def innocent(item: int) -> int:
        await asyncio.sleep(0.05)
        if item == 1:
            gc.callbacks.append(slow)
            try:
                gc.collect(0)
            finally:
                gc.callbacks.remove(slow)
        return item

    async def main() -> Any:
        watchdog = watching(asyncio.get_running_loop(), 0.2)
        results = await BatchProcessor(innocent, max_concurrency=2).batch(range(4))
        await asyncio.sleep(0.1)
        watchdog.stop()
        return results.report

    BatchProcessor(innocent)
    before = sample("flowrt_loop_stalls_total", node="innocent")

    def collected() -> Events:
        return [event for event in blocked(events) if event.get("garbage_collection")]

    report = repeat(lambda: run(main()), until=collected)
    (event,) = collected()
    assert "node" not in event
    assert sample("flowrt_loop_stalls_total", node="innocent") == before
    assert "the garbage collector" in [stall.culprit for stall in report.stalls]
    # a busy machine may add stalls, of which the collector then has a part
    explanation = r"the event loop was blocked .*by Python's garbage collector.*: batch_as_completed keeps no results"
    assert re.search(explanation, report.explanation)


def test_turning_loop_is_not_reported(run: Run, events: Events) -> None:
    async def node(item: int) -> int:
        time.sleep(0.02)  # busy, in pieces
        await asyncio.sleep(0)
        return item

    async def main() -> None:
        watchdog = watching(asyncio.get_running_loop(), 2.0)
        await BatchProcessor(node).batch(range(20))
        watchdog.stop()

    run(main())
    assert blocked(events) == []


def test_repeated_stalls_are_logged_once_and_all_counted(
    run: Run, events: Events, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrt.telemetry.watchdog._EVENT_INTERVAL_S", 3_600.0)

    async def again(item: int) -> int:
        await asyncio.sleep(0.12)  # one heartbeat, which ends a stall before this one
        time.sleep(0.35)  # the stall
        await asyncio.sleep(0.12)
        return item

    async def main() -> None:
        watchdog = watching(asyncio.get_running_loop())
        batch = partial(BatchProcessor(again, max_concurrency=1).batch, range(3))
        deadline = time.monotonic() + 60.0
        while await batch() and counted() < 3 and time.monotonic() < deadline:  # a suspended process has no stall
            pass
        watchdog.stop()

    def counted() -> float:
        return sample("flowrt_loop_stalls_total", node="again")

    run(main())
    assert len([event for event in blocked(events) if event.get("node")]) == 1
    assert counted() >= 3


def test_stall_is_reported_though_the_next_turns_are_slow(
    run: Run, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an event for each stall: an earlier one of a busy machine would suppress the event of this one
    monkeypatch.setattr("flowrt.telemetry.watchdog._EVENT_INTERVAL_S", 0.0)

    async def node(item: int) -> int:
        if item:
            await asyncio.sleep(1.0)  # a waiting item, so that the heartbeat checks each of the next turns
            return item
        await asyncio.sleep(0.05)
        time.sleep(0.3)  # the stall
        for _ in range(4):
            await asyncio.sleep(0)
            time.sleep(0.07)  # the watchdog samples after the stall, before it is reported
        return item

    async def main() -> None:
        watchdog = watching(asyncio.get_running_loop(), 0.2)
        await BatchProcessor(node, max_concurrency=2).batch(range(2))
        watchdog.stop()

    def reported() -> bool:
        return any("# the stall" in event["stack"] and event["duration_s"] > 0.25 for event in blocked(events))

    repeat(lambda: run(main()), until=reported)
    assert reported()


def test_c_call_that_holds_the_gil_is_found_afterwards(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    # a process that gets less than a tenth of a processor, as on a busy machine, would count as suspended
    monkeypatch.setattr(time, "process_time", time.perf_counter)
    monkeypatch.setattr("flowrt.telemetry.watchdog._EVENT_INTERVAL_S", 0.0)
    hog = (1 << 6_000_000) - 1  # squaring it takes long and holds the GIL

    def found() -> bool:
        return any("square" in event["stack"] for event in blocked(events))

    async def main() -> None:
        watchdog = watching(asyncio.get_running_loop())
        deadline = time.monotonic() + 60.0
        while not found() and time.monotonic() < deadline:  # a busy machine delays the watchdog too
            await asyncio.sleep(0.06)
            square = hog * hog
            assert square.bit_length() == 12_000_000
            await asyncio.sleep(0.2)
        watchdog.stop()

    asyncio.run(main())
    assert found()


def test_endless_stall_is_reported(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrt.telemetry.watchdog._LONG_S", 0.3)
    seen: list[Any] = []

    async def main() -> None:
        watchdog = watching(asyncio.get_running_loop())
        await asyncio.sleep(0.06)
        deadline = time.monotonic() + 30.0
        while not blocked(events) and time.monotonic() < deadline:
            time.sleep(0.05)  # the loop never turns
        seen.extend(blocked(events))
        await asyncio.sleep(0.2)
        watchdog.stop()

    asyncio.run(main())
    assert [event["still_blocked"] for event in seen] == [True]
    assert len(blocked(events)) == 1  # no second event at the end


class Suspended(threading.Event):
    """Simulates a suspended process: the watchdog's thread and the loop's thread pause together."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped, self.continued = threading.Event(), threading.Event()
        self.waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        if self.waits == 3:
            self.stopped.set()
            time.sleep(0.8)  # the loop pauses until the watchdog has run
            return False
        if self.waits == 4:
            self.continued.set()
        return super().wait(timeout)


def test_suspended_process_blames_no_node(events: Events) -> None:
    async def main() -> int:
        suspended = Suspended()
        watchdog = Watchdog(asyncio.get_running_loop(), list, 0.4)
        watchdog._stop = suspended
        watchdog.start()
        while not suspended.stopped.is_set():
            await asyncio.sleep(0.005)
        suspended.continued.wait(30.0)
        await asyncio.sleep(0.2)
        watchdog.stop()
        return suspended.waits

    assert asyncio.run(main()) > 4
    assert blocked(events) == []


def test_stop_leaves_no_thread_and_no_timer(run: Run) -> None:
    async def main() -> None:
        before = set(threading.enumerate())
        watchdog = watching(asyncio.get_running_loop())
        assert [each.name for each in set(threading.enumerate()) - before] == ["flowrt-watchdog"]
        watchdog.stop()
        assert_no_thread_left(before)
        beaten_ns = watchdog._heartbeat.beaten_ns
        await asyncio.sleep(0.12)
        assert watchdog._heartbeat.beaten_ns == beaten_ns

    run(main())


def test_frame_between_two_lines_shows_its_first_line() -> None:
    def here() -> FrameType:
        return sys._getframe()

    first = here.__code__.co_firstlineno
    here.__code__ = here.__code__.replace(co_linetable=b"")  # no instruction has a line
    frame = here()
    assert frame.f_lineno is None
    assert _stack(frame).splitlines()[-1].endswith(f":{first} in {here.__qualname__}: def here() -> FrameType:")


def test_ready_item_is_sampled_beside_thousands_that_have_waited_for_longer(run: Run) -> None:
    def active(number: int, waiter: Any) -> BatchRecord:
        batch = BatchRecord(name="b", node_id="n", node_type="t", limit=1)
        item = make_record(batch, number, None, 1)
        item.started_ns = 1
        slot: Any = SimpleNamespace(item=item, task=SimpleNamespace(_fut_waiter=waiter))
        batch.slots.append(slot)
        return batch

    async def main() -> dict[int, int]:
        loop = asyncio.get_running_loop()
        batches = [active(number, loop.create_future()) for number in range(3_000)]
        batches.append(active(3_000, None))
        watchdog = Watchdog(loop, lambda: batches)
        watchdog._sample(0, 5)
        assert len(watchdog._samples.waiting) == 1_999
        return {key == id(batches[-1].slots[0].item): at for key, at in watchdog._samples.ready.items()}

    assert run(main()) == {True: 5}
