"""Pause of a batch: nothing starts, what is in flight ends, and every way out of a pause leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flowrt import (
    BatchProcessor,
    BatchRecord,
    CircuitBreaker,
    Instrument,
    ProcessesExecutor,
    RateLimit,
    RetryPolicy,
    Telemetry,
)
from flowrt.engine.batch_run import BatchRun, active_batches
from flowrt.testing import run_virtual
from tests.engine.test_state_machine import Busy, Steps
from tests.executors.worker_nodes import nap

Run = Callable[[Any], Any]


class Calls:
    """Node that takes a second. `at_s` has the time of each call."""

    def __init__(self, fails: int = 0) -> None:
        self.at_s: list[float] = []
        self._fails = fails

    async def __call__(self, x: int) -> int:
        loop = asyncio.get_running_loop()
        self.at_s.append(round(loop.time(), 3))
        await asyncio.sleep(1.0)
        if self._fails:
            self._fails -= 1
            raise ConnectionError("no")
        return x


class Watch(Instrument):
    """Instrument that keeps the batch and the changes of its pause."""

    def __init__(self) -> None:
        self.batch: Any = None
        self.paused: list[bool] = []

    def batch_started(self, batch: BatchRecord) -> None:
        self.batch = batch

    def pause_changed(self, batch: BatchRecord) -> None:
        self.paused.append(bool(batch.paused_ns))


def act(at_s: float, *names: str) -> None:
    """Call methods of the active run at a time of the batch, in this order."""

    def call() -> None:
        for run in active_batches(asyncio.get_running_loop()):
            for name in names:
                ACTIONS[name](run)

    asyncio.get_running_loop().call_later(at_s, call)


ACTIONS: dict[str, Callable[[BatchRun], None]] = {
    "pause": lambda run: run.pause(),
    "resume": lambda run: run.resume(),
    "drain": lambda run: run.drain("drained by the test"),
    "cancel": lambda run: run.stop("cancelled by the test", cancels_rest=True),
}

LEDGER = Telemetry(tracing=False, logs=False)


def bound_of(batch: BatchRecord) -> dict[str, float]:
    """The ledger in seconds, without causes that hold nothing; it must sum to the wall time."""
    assert batch.ledger is not None
    bound_ns = batch.ledger.read(batch.finished_ns)
    assert sum(bound_ns.values()) == batch.finished_ns - batch.started_ns
    return {cause: round(ns / 1e9, 1) for cause, ns in bound_ns.items() if ns > 10_000_000}


async def as_stream(items: int) -> AsyncIterator[int]:
    for x in range(items):
        yield x


INPUTS: dict[str, Callable[[int], Any]] = {
    "list": lambda items: list(range(items)),
    "generator": lambda items: (x for x in range(items)),
    "async generator": as_stream,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("inputs", INPUTS)
def test_paused_batch_starts_nothing_until_it_is_resumed(inputs: str, stream: bool, run_virtual: Run) -> None:
    node, watch = Calls(), Watch()

    async def main() -> list[int]:
        processor = BatchProcessor(node, 2, telemetry=LEDGER, instruments=[watch])
        act(1.5, "pause")
        act(11.5, "resume")
        if stream:
            return [result.output async for result in processor.batch_as_completed(INPUTS[inputs](6))]
        return (await processor.batch(INPUTS[inputs](6))).outputs

    assert sorted(run_virtual(main())) == list(range(6))
    assert node.at_s == [0, 0, 1, 1, 11.5, 11.5]
    assert watch.paused == [True, False]
    assert watch.batch.paused_ns == 0
    bound = bound_of(watch.batch)
    assert bound["paused"] == 10.0
    assert sum(bound.values()) == pytest.approx(12.5)


def test_busy_consumer_is_not_charged_as_a_pause_ends(run_virtual: Run) -> None:
    watch = Watch()

    async def main() -> None:
        act(0.5, "pause")
        act(5, "resume")
        taken = 0
        async for _ in BatchProcessor(Calls(), 2, telemetry=LEDGER, instruments=[watch]).batch_as_completed(range(6)):
            taken += 1
            await asyncio.sleep({1: 1.0, 2: 4.5}.get(taken, 0.0))  # it takes the second at 2 s, and is back at 6.5 s

    run_virtual(main())
    bound = bound_of(watch.batch)
    assert (bound["paused"], bound["consumer"]) == (4.5, 0.5), "its workers run from 5 s to 6 s, and wait until 6.5 s"


def test_input_that_arrives_during_a_pause_starts_after_it(run_virtual: Run) -> None:
    node, watch = Calls(), Watch()

    async def late() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(3)
        yield 1
        await asyncio.sleep(3)
        yield 2

    async def main() -> None:
        act(2, "pause")
        act(5, "resume")
        results = await BatchProcessor(node, 4, telemetry=LEDGER, instruments=[watch]).batch(late())
        assert results.outputs == [0, 1, 2]

    run_virtual(main())
    assert node.at_s == [0, 5, 6]
    assert bound_of(watch.batch)["paused"] == 3.0


def test_retry_that_is_due_during_a_pause_starts_after_it(run_virtual: Run) -> None:
    node = Calls(fails=1)

    async def main() -> None:
        act(1.5, "pause")
        act(8, "resume")
        retry = RetryPolicy(2, wait=lambda _: 2.0, budget=None)
        results = await BatchProcessor(node, 1, retry=retry, telemetry=False).batch([7])
        assert results.outputs == [7]

    run_virtual(main())
    assert node.at_s == [0, 8]


def test_item_that_waits_for_a_policy_starts_after_the_pause(run_virtual: Run) -> None:
    node, watch = Calls(), Watch()

    async def main() -> None:
        act(2.5, "pause")
        act(20.5, "resume")
        limit = RateLimit(1, per=2.0)
        results = await BatchProcessor(node, 4, rate_limit=limit, telemetry=LEDGER, instruments=[watch]).batch(range(4))
        assert results.success_rate == 1

    run_virtual(main())
    assert node.at_s == [0, 2, 20.5, 22.5], "the rate limit holds, and a pause uses nothing of it"
    assert bound_of(watch.batch)["paused"] == 18.0


def test_probe_of_an_open_circuit_waits_for_the_end_of_a_pause(run_virtual: Run) -> None:
    node = Calls(fails=2)

    async def main() -> None:
        act(3, "pause")
        act(30, "resume")
        breaker = CircuitBreaker(0.5, cooldown=5.0, minimum=2, open="pause")
        results = await BatchProcessor(node, 1, breaker=breaker, telemetry=False).batch(range(4))
        assert [result.status for result in results] == ["failed", "failed", "ok", "ok"]

    run_virtual(main())
    assert node.at_s[:2] == [0, 1]
    assert all(at >= 30 for at in node.at_s[2:])


def test_probe_delayed_by_a_pause_is_given_back(run_virtual: Run) -> None:
    """The circuit is half open from 41 s on, the rate limit admits the probe at 50.5 s, and the next at 60.5 s."""
    node = Calls(fails=2)

    async def main() -> None:
        breaker = CircuitBreaker(0.5, cooldown=30.0, minimum=2, open="pause")
        limit = RateLimit(1, per=10.0)

        async def use_up() -> None:
            await asyncio.sleep(40.5)
            await limit.acquire()

        act(45, "pause")
        act(52, "resume")
        user = asyncio.create_task(use_up())
        results = await BatchProcessor(node, 2, breaker=breaker, rate_limit=limit, telemetry=False).batch(range(3))
        assert [result.status for result in results] == ["failed", "failed", "ok"]
        await user

    run_virtual(main())
    assert node.at_s == [0, 10, 60.5]


def test_batch_timeout_ends_a_paused_batch(run_virtual: Run) -> None:
    watch = Watch()

    async def main() -> list[str]:
        act(1.5, "pause")
        processor = BatchProcessor(Calls(), 2, batch_timeout=60, telemetry=LEDGER, instruments=[watch])
        results = await processor.batch(range(6))
        assert "batch_timeout=60 s" in (results[-1].error or "")
        return [result.status for result in results]

    assert run_virtual(main()) == ["ok"] * 4 + ["cancelled"] * 2
    assert bound_of(watch.batch) == {"slots": 1.5, "paused": 58.5}


@pytest.mark.parametrize(
    ("steps", "statuses", "ended_s"),
    [
        ([(1.5, "pause"), (5, "drain")], ["ok"] * 4 + ["cancelled"] * 2, 5),
        ([(1.5, "pause"), (5, "cancel")], ["ok"] * 4 + ["cancelled"] * 2, 5),
        ([(1.5, "pause drain")], ["ok"] * 4 + ["cancelled"] * 2, 2),
        ([(1.5, "pause cancel")], ["ok"] * 2 + ["cancelled"] * 4, 1.5),
        ([(1.5, "drain pause")], ["ok"] * 4 + ["cancelled"] * 2, 2),
        ([(1.5, "cancel pause")], ["ok"] * 2 + ["cancelled"] * 4, 1.5),
        ([(1.5, "pause"), (5, "drain resume")], ["ok"] * 4 + ["cancelled"] * 2, 5),
        ([(1.5, "pause"), (5, "drain cancel")], ["ok"] * 4 + ["cancelled"] * 2, 5),
        ([(1.2, "pause"), (1.5, "drain"), (1.7, "cancel")], ["ok"] * 2 + ["cancelled"] * 4, 1.7),
        ([(1.5, "pause resume pause"), (5, "resume")], ["ok"] * 6, 6),
        ([(1.5, "pause pause"), (5, "resume resume")], ["ok"] * 6, 6),
        ([(1.5, "pause"), (1.7, "resume")], ["ok"] * 6, 3),
        ([(1.5, "resume")], ["ok"] * 6, 3),
        ([(2.5, "pause")], ["ok"] * 6, 3),  # all that is left is in flight
        ([(0.5, "pause"), (3, "resume"), (3.5, "pause"), (9, "resume")], ["ok"] * 6, 10),
    ],
)
def test_pause_drain_and_cancel_work_in_every_order(
    steps: list[tuple[float, str]], statuses: list[str], ended_s: float, run_virtual: Run
) -> None:
    async def main() -> list[str]:
        watch = Watch()
        for at_s, names in steps:
            act(at_s, *names.split())
        loop = asyncio.get_running_loop()
        before_s = loop.time()
        results = await BatchProcessor(Calls(), 2, telemetry=LEDGER, instruments=[watch]).batch(range(6))
        assert loop.time() - before_s == pytest.approx(ended_s)
        assert watch.batch.paused_ns == 0
        assert watch.paused == [True, False] * (len(watch.paused) // 2)
        bound_of(watch.batch)
        return [result.status for result in results]

    assert run_virtual(main()) == statuses


@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_caller_that_goes_ends_a_paused_batch(how: str, run_virtual: Run) -> None:
    watch = Watch()

    async def consume() -> None:
        processor = BatchProcessor(Calls(), 2, telemetry=LEDGER, instruments=[watch])
        async with processor.batch_as_completed(range(6)) as stream:
            async for _ in stream:
                if how == "left":
                    active_batches(asyncio.get_running_loop())[0].pause()
                    return

    async def main() -> None:
        if how == "cancelled":
            act(1.5, "pause")
        task = asyncio.create_task(consume())
        await asyncio.wait([task], timeout=5)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert watch.batch.finished_ns
        assert not watch.batch.slots
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())


def test_failure_ends_a_paused_fail_fast_batch(run_virtual: Run) -> None:
    async def main() -> None:
        act(0.5, "pause")
        with pytest.raises(ConnectionError):
            await BatchProcessor(Calls(fails=1), 2, continue_on_error=False, telemetry=False).batch(range(6))

    run_virtual(main())


def test_pause_ends_once_nothing_is_left_to_start(run_virtual: Run) -> None:
    """With retries, an item in flight may need another start, so the pause begins; it ends with the last item."""
    watch = Watch()

    async def main() -> None:
        act(0.5, "pause")
        retry = RetryPolicy(2, wait=lambda _: 1.0, budget=None)
        processor = BatchProcessor(Calls(), 4, retry=retry, telemetry=LEDGER, instruments=[watch])
        assert (await asyncio.wait_for(processor.batch(range(3)), 100)).success_rate == 1

    run_virtual(main())
    assert watch.paused == [True, False]


def test_items_sent_ahead_to_a_worker_end_during_a_pause() -> None:
    watch = Watch()

    async def main() -> None:
        async with ProcessesExecutor(1) as executor:
            processor = BatchProcessor(nap, 3, executor=executor, telemetry=LEDGER, instruments=[watch])
            batch = asyncio.create_task(processor.batch([0.3] * 3))
            while watch.batch is None or watch.batch.pulled < 3:
                await asyncio.sleep(0.01)
            for run in active_batches(asyncio.get_running_loop()):
                run.pause()
            assert (await batch).success_rate == 1

    asyncio.run(main())
    assert watch.paused in ([True, False], [])
    assert watch.batch.paused_ns == 0
    bound_of(watch.batch)


def test_log_says_since_when_a_batch_was_paused_and_for_how_long(
    run_virtual: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        act(1.5, "pause")
        act(11.5, "resume")
        await BatchProcessor(Calls(), 2, name="logged").batch(range(6))

    with caplog.at_level("INFO", "flowrt"):
        run_virtual(main())
    (started,) = [record for record in caplog.records if "pause.started" in record.message]
    (ended,) = [record for record in caplog.records if "pause.ended" in record.message]
    assert started.levelname == "WARNING"
    assert "completed=2" in started.message
    assert "duration_s=10.0" in ended.message
    assert "it was paused" in next(r.message for r in caplog.records if "batch.completed" in r.message)


def test_limit_that_changes_during_a_pause_holds_after_it(run_virtual: Run) -> None:
    node = Calls()

    async def main() -> None:
        processor = BatchProcessor(node, 2, telemetry=False)
        act(0.5, "pause")
        asyncio.get_running_loop().call_later(3, processor.set_max_concurrency, 4)
        act(5, "resume")
        assert (await processor.batch(range(10))).success_rate == 1

    run_virtual(main())
    assert node.at_s == [0, 0, *[5] * 4, *[6] * 4]


def test_journal_resumes_a_batch_that_was_cancelled_during_a_pause(run_virtual: Run, tmp_path: Path) -> None:
    async def main() -> None:
        settings: dict[str, Any] = {"journal": tmp_path / "batch.journal", "telemetry": False}
        act(1.5, "pause")
        act(5, "cancel")
        first = await BatchProcessor(Calls(), 2, **settings).batch(range(6))
        assert [result.status for result in first] == ["ok"] * 4 + ["cancelled"] * 2
        second = await BatchProcessor(Calls(), 2, **settings).batch(range(6))
        assert [result.status for result in second] == ["resumed"] * 4 + ["ok"] * 2

    run_virtual(main())


@pytest.mark.parametrize("end", ["resume", "drain", "cancel"])
def test_batch_paused_at_any_step_starts_nothing_and_leaves_nothing(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)

    async def main(at: int) -> int:
        busy = Busy(hedge=None)
        loop = asyncio.get_running_loop()
        tries: list[int] = []

        def pause() -> None:
            for run in active_batches(loop):
                run.pause()
                if run.batch.paused_ns:
                    tries.append(busy.tries.total())

        caller = asyncio.create_task(busy.processor.batch(range(12)))
        steps.count, steps.at, steps.act = 0, at, pause
        await asyncio.wait([caller], timeout=60)
        taken, steps.at = steps.count, -1
        if not caller.done():
            assert tries == [busy.tries.total()], "an attempt started during the pause"
            assert busy.running == 0
            for run in active_batches(loop):
                ACTIONS[end](run)
        results = await caller
        if end == "resume" or not tries:
            assert results.success_rate == 1
        await asyncio.sleep(0)
        await busy.check(caller)
        return taken

    total = run_virtual(main(10**9))
    assert total > 60
    for at in range(2, total - 1, 1 if end == "resume" else 5):
        run_virtual(main(at))
