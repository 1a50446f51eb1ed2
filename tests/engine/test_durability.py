"""A batch with a journal: what is durable when a result is seen, what a later batch runs, and what ends it early."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from flowrt import (
    BatchProcessor,
    BatchResult,
    CircuitBreaker,
    FunctionNode,
    Hedge,
    Instrument,
    ItemFailedError,
    ItemRecord,
    JournalPolicy,
    Rejected,
    RetryPolicy,
)
from flowrt.engine import cancellation
from flowrt.engine.batch_run import active_batches
from flowrt.errors import JournalDiskError, JournalInUseError, JournalMismatchError
from flowrt.journal import Journal, records
from flowrt.model import Slot
from tests.conftest import run_on, virtual_loop
from tests.journal.harness import BROKEN, FINGERPRINT, FULL, FaultyDisk

Run = Callable[[Any], Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.journal"


class Node:
    """Counts its runs; some items fail, for so long as they are told to."""

    def __init__(self, seconds: float = 0.01, failing: set[int] | None = None) -> None:
        self.seconds = seconds
        self.failing = failing or set()
        self.runs: Counter[int] = Counter()

    async def __call__(self, x: int) -> dict[str, int]:
        self.runs[x] += 1
        await asyncio.sleep(self.seconds)
        if x in self.failing:
            raise ValueError(f"{x} fails")
        return {"v": 10 * x}


def processor(node: Any, c: int, journal: Any, **settings: Any) -> BatchProcessor:
    return BatchProcessor(FunctionNode(node, "node"), c, journal=journal, **{"telemetry": False, **settings})


async def drained(batch: BatchProcessor, inputs: Any) -> list[BatchResult]:
    return [result async for result in batch.batch_as_completed(inputs)]


def held(path: Path) -> dict[int, str]:
    return {result.index: result.status for result in records(path)}


# -- durable before it is seen -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asyncio", "uvloop", "virtual"])
def test_an_item_is_in_the_journal_before_its_result_or_its_end_is_told(
    kind: str, path: Path, request: pytest.FixtureRequest
) -> None:
    told: list[int] = []

    class Look(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            assert item.index in held(path)
            told.append(item.index)

    async def main() -> None:
        batch = processor(Node(), 4, path, instruments=[Look()])
        async for result in batch.batch_as_completed(range(20)):
            assert held(path)[result.index] == "ok"

    from tests.conftest import LOOPS

    run_on(LOOPS[kind], main())
    assert sorted(told) == list(range(20))


def test_what_ran_and_is_not_on_the_disk_yet_is_never_more_than_the_limit(run: Run, path: Path) -> None:
    node, most = Node(0), 0
    durable: set[int] = set()

    class Look(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            nonlocal most
            most = max(most, len(node.runs) - len(durable))
            durable.add(item.index)

    results = run(processor(node, 7, path, instruments=[Look()]).batch(range(300)))
    assert results.success_rate == 1.0
    assert most <= 7


def test_many_items_share_one_sync(path: Path) -> None:
    disk = FaultyDisk()

    async def main() -> None:
        with Journal(path, FINGERPRINT, disk=disk) as journal:
            await processor(Node(), 50, journal).batch(range(500))

    run_on(virtual_loop, main())
    assert disk.calls.count("sync") < 20
    assert len(held(path)) == 500


# -- resuming ------------------------------------------------------------------------------------------------------


def test_a_later_batch_runs_only_what_no_earlier_one_finished(run_virtual: Run, path: Path) -> None:
    first, second = Node(), Node()

    async def main() -> None:
        stream = processor(first, 3, path).batch_as_completed(range(30))
        async with stream:
            for _ in range(10):
                await anext(stream)
        kept = held(path)
        assert 10 <= len(kept) < 30
        results = await processor(second, 3, path).batch(range(30))
        assert [result.output for result in results] == [{"v": 10 * x} for x in range(30)]
        assert {result.index for result in results if result.status == "resumed"} == set(kept)
        assert {result.index for result in results if result.status == "ok"} == set(second.runs)
        assert set(second.runs) == set(range(30)) - set(kept)
        assert all(result.success and result.attempts == 1 for result in results)
        assert all(result.execution_time == pytest.approx(0.01) for result in results)

    run_virtual(main())
    assert sum((first.runs + second.runs).values()) <= 30 + 3
    again = run_on(virtual_loop, processor(Node(), 3, path).batch(range(30)))
    assert {result.status for result in again} == {"resumed"}


def test_failed_items_are_given_back_as_they_were_and_run_again_when_asked(run_virtual: Run, path: Path) -> None:
    node = Node(failing={1, 4})
    before = run_virtual(processor(node, 2, path).batch(range(6)))
    same = run_virtual(processor(node, 2, path).batch(range(6)))
    assert node.runs == Counter(range(6))
    assert [result.status for result in same] == ["resumed", "failed", "resumed", "resumed", "failed", "resumed"]
    assert [(same[1].error, same[1].error_type, same[1].attempts)] == [("1 fails", "ValueError", 1)]
    assert same[1].execution_time == before[1].execution_time
    node.failing = {4}
    again = run_virtual(processor(node, 2, JournalPolicy(path, retry_failed=True)).batch(range(6)))
    assert [result.status for result in again] == ["resumed", "ok", "resumed", "resumed", "failed", "resumed"]
    assert node.runs == Counter([*range(6), 1, 4])
    assert run_virtual(processor(node, 2, path).batch(range(6))).failed[0].index == 4


def test_the_times_of_what_an_earlier_run_finished_are_not_those_of_this_one(run_virtual: Run, path: Path) -> None:
    run_virtual(processor(Node(failing={1, 4}), 2, path).batch(range(6)))
    results = run_virtual(processor(Node(), 2, path).batch(range(7)))
    assert results.report.counts == {"ok": 1, "failed": 2, "timed_out": 0, "cancelled": 0, "resumed": 4}
    assert results.report.service_times.count == 1
    assert results.report.claimed_speedup == pytest.approx(results[6].execution_time / results.wall_time)


def test_what_is_resumed_is_counted_traced_and_accounted_for_as_such(run_virtual: Run, path: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    run_virtual(processor(Node(failing={2}), 2, path).batch(range(5)))
    results = run_virtual(processor(Node(), 2, path, telemetry=True, name="again").batch(range(7)))
    labels = {"batch": "again", "node": "node"}

    def counted(name: str, **more: str) -> float | None:
        return REGISTRY.get_sample_value(f"flowrt_{name}", {**labels, **more})

    assert results.report.counts == {"ok": 2, "failed": 1, "timed_out": 0, "cancelled": 0, "resumed": 4}
    by_status = {status: counted("items_total", status=status) for status in ("ok", "failed", "resumed")}
    assert by_status == {"ok": 2, "failed": 1, "resumed": 4}
    assert counted("item_attempts_total", status="ok") == 2
    assert counted("item_attempts_total", status="failed") == 0
    assert counted("item_duration_seconds_count", status="failed") == 0
    assert counted("item_queue_wait_seconds_count") == 2
    assert REGISTRY.get_sample_value("flowrt_unaccounted_items", {"batch": "again"}) == 0
    spans = [span for span in exporter.get_finished_spans() if span.name == "process node"]
    assert sorted(span.attributes["flowrt.item.index"] for span in spans if span.attributes) == list(range(7))
    assert results[0].trace_id is not None


def test_an_async_input_is_resumed_too(run_virtual: Run, path: Path) -> None:
    async def source(stop: int) -> AsyncIterator[int]:
        for x in range(stop):
            await asyncio.sleep(0)
            yield x

    run_virtual(processor(Node(), 2, path).batch(source(4)))
    node = Node()
    results = run_virtual(processor(node, 2, path).batch(source(6)))
    assert [result.status for result in results] == ["resumed"] * 4 + ["ok"] * 2
    with pytest.raises(JournalMismatchError, match="holds item 5 and the input ends after 3"):
        run_virtual(processor(node, 2, path).batch(source(3)))


def test_items_with_retries_are_journaled_once_with_all_their_attempts(run_virtual: Run, path: Path) -> None:
    node = Node(failing={1})
    retry = RetryPolicy(attempts=3, base=1.0)
    run_virtual(processor(node, 2, path, retry=retry).batch(range(3)))
    kept = list(records(path))
    assert sorted((result.index, result.attempts) for result in kept) == [(0, 1), (1, 3), (2, 1)]
    again = run_virtual(processor(node, 2, path, retry=retry).batch(range(3)))
    assert again[1].attempts == 3
    assert node.runs == Counter({0: 1, 1: 3, 2: 1})


def test_what_an_earlier_run_finished_pays_for_no_retries_of_this_one(run_virtual: Run, path: Path) -> None:
    retry = RetryPolicy(2, budget=0.5, budget_minimum=0, wait=lambda _: 1.0)
    run_virtual(processor(Node(), 10, path).batch(range(100)))
    node = Node(failing={*range(100, 120)})
    run_virtual(processor(node, 1, path, retry=retry).batch(range(120)))
    assert sum(node.runs.values()) == 20 + 10


def test_what_an_earlier_run_finished_pays_for_no_hedges_of_this_one(run_virtual: Run, path: Path) -> None:
    run_virtual(processor(Node(), 10, path).batch(range(100)))
    node = Node(seconds=10.0)
    run_virtual(processor(node, 50, path, hedge=Hedge(1.0, share=0.1)).batch(range(110)))
    assert sum(node.runs.values()) == 10 + 2


def test_what_had_no_attempt_is_not_journaled(run_virtual: Run, path: Path) -> None:
    inputs = [0, Rejected("line 2: not JSON", input_data="x"), 2]
    for _ in range(2):
        results = run_virtual(processor(Node(), 2, path).batch(inputs))
        assert results[1].error == "line 2: not JSON"
        assert sorted(held(path)) == [0, 2]
    node = Node(failing={0, 1, 2})
    breaker = CircuitBreaker(failure_ratio=0.5, minimum=3, cooldown=3600.0, open="fail")
    run_virtual(processor(node, 1, path.with_name("other"), breaker=breaker).batch(range(6)))
    assert held(path.with_name("other")) == dict.fromkeys(range(len(node.runs)), "failed")
    assert len(node.runs) < 6


def test_retry_failed_takes_the_others_from_the_journal(run_virtual: Run, path: Path) -> None:
    node = Node(failing={1, 3})
    batch = processor(node, 2, path)

    async def main() -> None:
        results = await batch.batch([0, 1, Rejected("no line"), 3])
        node.failing = {3}
        again = await batch.retry_failed(results)
        assert [result.status for result in again] == ["ok", "ok", "failed", "failed"]
        assert again[0] is results[0]
        assert node.runs == Counter({0: 1, 1: 2, 3: 2})
        with pytest.raises(ValueError, match="takes the results of a whole batch"):
            await batch.retry_failed(results[1:])

    run_virtual(main())
    assert held(path) == {0: "ok", 1: "ok", 3: "failed"}


# -- another run's -------------------------------------------------------------------------------------------------


def test_another_runs_journal_is_refused_before_anything_runs(run_virtual: Run, path: Path) -> None:
    node = Node()
    run_virtual(processor(node, 2, path).batch(range(4)))
    ran = node.runs.total()
    others: list[tuple[BatchProcessor, Any, str]] = [
        (processor(node, 2, path), [7, 1, 2, 3], "item 0 had another input"),
        (processor(node, 2, path), range(3), "holds item 3 and the input ends after 3"),
        (BatchProcessor(FunctionNode(node, "other"), journal=path, telemetry=False), range(4), "node was"),
        (BatchProcessor(FunctionNode(node, "node", config={"a": 1}), journal=path), range(4), "config was"),
        (processor(node, 2, JournalPolicy(path, fingerprint={"prompt": 2})), range(4), "prompt was null and is 2"),
    ]
    for batch, inputs, said in others:
        with pytest.raises(JournalMismatchError, match=said):
            run_virtual(batch.batch(inputs))
        with pytest.raises(JournalMismatchError, match=said):
            run_virtual(drained(batch, inputs))
    assert node.runs.total() == ran
    assert run_virtual(processor(node, 2, path).batch(range(5)))[4].status == "ok"  # it was let go of each time


def test_a_second_batch_on_a_journal_is_refused_and_the_first_goes_on(run: Run, path: Path) -> None:
    async def main() -> None:
        stream = processor(Node(), 2, path).batch_as_completed(range(20))
        seen = [(await anext(stream)).index]
        with pytest.raises(JournalInUseError, match="in use by another run"):
            await processor(Node(), 2, path).batch(range(20))
        seen += [result.index async for result in stream]
        assert sorted(seen) == list(range(20))

    run(main())


def test_an_open_journal_serves_one_batch_and_stays_open(run_virtual: Run, path: Path) -> None:
    async def main() -> None:
        with Journal(path, FINGERPRINT) as journal:
            batch = processor(Node(), 2, journal)
            await batch.batch(range(3))
            with pytest.raises(JournalInUseError):
                Journal(path, FINGERPRINT)
            with pytest.raises(RuntimeError, match="was started before"):
                await batch.batch(range(3))
            with pytest.raises(TypeError, match="its path or a JournalPolicy"):
                await batch.retry_failed([])

    run_virtual(main())
    assert sorted(held(path)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("journal", "error"),
    [(3, TypeError), ("", ValueError), (b"j", TypeError), (True, TypeError)],
)
def test_what_is_no_journal_is_refused_before_any_work(journal: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="journal"):
        processor(Node(), 2, journal)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"retry_failed": 1}, "retry_failed"), ({"check_inputs": None}, "check_inputs"), ({"fingerprint": 3}, "mapping")],
)
def test_a_policy_is_checked_when_it_is_made(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        JournalPolicy("j", **settings)


# -- the disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asyncio", "uvloop", "virtual"])
@pytest.mark.parametrize(("operation", "code"), [("write", FULL), ("write", BROKEN), ("sync", BROKEN), ("sync", FULL)])
def test_a_disk_that_fails_ends_the_batch_and_a_later_one_completes_it(
    kind: str, operation: str, code: int, path: Path
) -> None:
    from tests.conftest import LOOPS

    node, told = Node(0.001), []
    disk = FaultyDisk({operation: (6, code)})

    class Look(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            told.append((item.index, item.status, item.error_type))

    async def main() -> None:
        with Journal(path, FINGERPRINT, disk=disk) as journal:
            await processor(node, 3, journal, instruments=[Look()]).batch(range(100))

    with pytest.raises(JournalDiskError, match="mend the disk and resume"):
        run_on(LOOPS[kind], main())
    assert disk.calls.count("sync") <= 6 + 1  # once a sync has failed, none is tried again
    ok = {index for index, status, _ in told if status == "ok"}
    lost = [(index, error_type) for index, status, error_type in told if status == "cancelled"]
    assert ok == set(held(path))
    assert "JournalDiskError" in {error_type for _, error_type in lost}
    assert len(told) == len({index for index, _, _ in told}) <= len(ok) + 100

    async def resume() -> Any:
        with Journal(path, FINGERPRINT) as journal:
            return await processor(node, 3, journal).batch(range(100))

    results = run_on(LOOPS[kind], resume())
    assert [result.output for result in results] == [{"v": 10 * x} for x in range(100)]
    assert all(node.runs[index] == 1 for index in ok)
    assert node.runs.total() <= 100 + 3


def test_a_disk_that_does_not_answer_lets_the_caller_go_after_the_grace(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "GRACE_S", 0.05)
    answers, asked = threading.Event(), threading.Event()

    class Hung(FaultyDisk):
        def sync(self, fd: int) -> None:
            super().sync(fd)
            if self.calls.count("sync") > 2:
                asked.set()
                answers.wait(60)

    told: list[tuple[str, str | None]] = []

    class Look(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            told.append((item.status, item.error))

    async def main() -> None:
        journal = Journal(path, FINGERPRINT, disk=Hung())
        work = asyncio.create_task(processor(Node(0), 2, journal, instruments=[Look()]).batch(range(5)))
        await asyncio.to_thread(asked.wait, 60)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        answers.set()
        journal.close()

    run_on(asyncio.SelectorEventLoop, main())
    assert [status for status, _ in told] == ["cancelled"] * 2
    assert "its journal did not answer within 0.05 s" in str(told)


# -- ends that come early ------------------------------------------------------------------------------------------


def steps_of(main: Any, stop_at: int) -> int:
    """Run until a turn of the loop, cancel then, and say how many turns there were."""
    turns = 0

    async def guarded() -> None:
        nonlocal turns
        work = asyncio.ensure_future(main())
        loop = asyncio.get_running_loop()

        def turn() -> None:
            nonlocal turns
            turns += 1
            if turns == stop_at:
                work.cancel()
            elif not work.done():
                loop.call_soon(turn)

        loop.call_soon(turn)
        await asyncio.wait([work])
        if not work.cancelled():
            work.result()

    run_on(asyncio.SelectorEventLoop, guarded())
    return turns


def test_cancelled_at_every_step_an_item_is_journaled_or_runs_again_never_neither_never_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on the loop, so that the steps are the same each time
    monkeypatch.setattr("flowrt.batch.journal_opening.is_virtual", lambda _: True)
    at, reached = 0, True
    while reached:
        at += 1
        path, node = tmp_path / f"{at}.journal", Node(0)

        async def main() -> None:
            await processor(node, 3, path).batch(range(8))  # noqa: B023  # runs at once

        reached = steps_of(main, at) == at
        first, kept = node.runs.copy(), set(held(path)) if path.exists() else set()
        results = run_on(virtual_loop, processor(node, 3, path).batch(range(8)))
        assert [result.output["v"] for result in results] == [10 * x for x in range(8)], at
        assert {result.index for result in results if result.status == "resumed"} == kept, at
        assert all(node.runs[index] == 1 for index in kept), at
        assert all(node.runs[index] == 1 + first[index] for index in set(range(8)) - kept), at
    assert at > 15


def test_an_interrupt_in_a_node_comes_out_and_what_had_finished_is_kept(run: Run, path: Path) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(0.001)
        if x == 12:
            raise KeyboardInterrupt
        return x

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            await processor(node, 2, path).batch(range(50))

    run(main())
    kept = held(path)
    assert len(kept) >= 11
    assert 12 not in kept
    assert set(kept.values()) == {"ok"}


def test_draining_waits_for_the_journal(run_virtual: Run, path: Path) -> None:
    node = Node(1.0)

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.call_later(2.5, lambda: active_batches(loop)[0].drain("shutting down"))
        return await processor(node, 2, path).batch(range(10))

    results = run_virtual(main())
    assert {result.index for result in results.succeeded} == set(range(6)) == set(held(path))
    assert {result.status for result in results.failed} == {"cancelled"}
    node.runs.clear()
    assert run_virtual(processor(node, 2, path).batch(range(10))).success_rate == 1.0
    assert set(node.runs) == {6, 7, 8, 9}


@pytest.mark.parametrize("end", ["drain", "stop"])
def test_an_item_that_would_be_tried_again_if_the_batch_went_on_has_not_failed(
    end: str, run_virtual: Run, path: Path
) -> None:
    told: list[tuple[str, int, str]] = []
    seconds, mended = {0: 10.0, 1: 3.0}, False

    class Look(Instrument):
        def attempt_ended(self, item: ItemRecord) -> None:
            told.append(("ended", item.index, item.status))

        def retry_scheduled(self, item: ItemRecord) -> None:
            told.append(("retry", item.index, item.status))

        def item_finished(self, item: ItemRecord) -> None:
            told.append(("finished", item.index, item.status))

    async def node(x: int) -> int:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(seconds[x])
        if not mended:
            raise ConnectionError(f"no answer to {x}")
        return x

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.call_later(5.0, lambda: [getattr(batch, end)("over") for batch in active_batches(loop)])
        retry = RetryPolicy(2, wait=lambda _: 1.0)
        return await processor(node, 2, path, retry=retry, instruments=[Look()]).batch(range(2))

    results = run_virtual(main())  # the time is over in the first attempt at 0 and in the second and last at 1
    assert [(result.status, result.attempts) for result in results] == [("cancelled", 1), ("failed", 2)]
    assert results[0].error == "not tried again: over; attempt 1 ended in ConnectionError: no answer to 0"
    assert [event for event in told if event[1] == 0] == [("ended", 0, "cancelled"), ("finished", 0, "cancelled")]
    assert held(path) == {1: "failed"}
    mended = True
    assert [result.status for result in run_virtual(main())] == ["ok", "failed"]


def test_what_the_journal_holds_is_resumed_even_after_the_batchs_time_is_over(run_virtual: Run, path: Path) -> None:
    run_virtual(processor(Node(failing={0}), 1, path).batch(range(6)))
    policy = JournalPolicy(path, retry_failed=True)

    async def main() -> Any:
        return await processor(Node(seconds=3600), 1, policy, batch_timeout=1.0).batch(range(8))

    statuses = [result.status for result in run_virtual(main())]
    assert statuses == ["cancelled", *["resumed"] * 5, "cancelled", "cancelled"]


class Waits(FaultyDisk):
    """Its sync of the first group returns when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = threading.Event(), threading.Event()

    def sync(self, fd: int) -> None:
        super().sync(fd)
        if self.calls.count("sync") == 3:
            self.asked.set()
            self.answers.wait(60)


def test_stray_cancel_while_the_disk_is_busy_changes_nothing(path: Path) -> None:
    node, disk = Node(0), Waits()

    async def main() -> Any:
        with Journal(path, FINGERPRINT, disk=disk) as journal:
            work = asyncio.ensure_future(processor(node, 2, journal, name="cut short").batch(range(20)))
            await asyncio.to_thread(disk.asked.wait, 60)
            await asyncio.sleep(0.05)
            for task in asyncio.all_tasks():
                if task.get_name() == "cut short":
                    task.cancel()
            await asyncio.sleep(0.05)
            disk.answers.set()
            return await work

    results = run_on(asyncio.SelectorEventLoop, main())
    assert [result.status for result in results] == ["ok"] * 20
    assert set(held(path)) == set(range(20))
    assert node.runs.total() == 20


def test_the_time_that_the_disk_takes_is_not_the_items(path: Path) -> None:
    disk = Waits()

    async def main() -> Any:
        asyncio.get_running_loop().call_later(0.5, disk.answers.set)
        with Journal(path, FINGERPRINT, disk=disk) as journal:
            return await processor(Node(0), 2, journal, item_timeout=0.1).batch(range(6))

    results = run_on(asyncio.SelectorEventLoop, main())
    assert [result.status for result in results] == ["ok"] * 6


def test_a_stream_that_is_closed_while_its_journal_is_read_runs_nothing(run: Run, path: Path) -> None:
    node = Node()

    async def main() -> None:
        stream = processor(node, 2, path).batch_as_completed(range(5))
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await first

    run(main())
    assert not node.runs
    assert run(processor(Node(), 2, path).batch(range(5))).success_rate == 1.0


def test_fail_fast_keeps_the_failure(run_virtual: Run, path: Path) -> None:
    node = Node(failing={2})

    async def main() -> None:
        await processor(node, 1, path, continue_on_error=False).batch(range(5))

    with pytest.raises(ValueError, match="2 fails"):
        run_virtual(main())
    assert held(path) == {0: "ok", 1: "ok", 2: "failed"}
    with pytest.raises(ItemFailedError, match="item 2 failed: 2 fails"):
        run_virtual(main())
    assert node.runs == Counter(range(3))


def test_an_item_that_does_not_stop_when_its_time_is_over_is_kept_as_timed_out(run_virtual: Run, path: Path) -> None:
    async def stubborn(x: int) -> int:
        end = asyncio.get_running_loop().time() + 20
        while (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue
        return x

    async def main() -> Any:
        results = await processor(stubborn, 1, path, item_timeout=1.0).batch(range(2))
        await asyncio.sleep(60)
        return results

    results = run_virtual(main())
    assert [result.status for result in results] == ["timed_out"] * 2
    assert held(path) == {0: "timed_out", 1: "timed_out"}
    assert len(list(records(path))) == 2


async def stubborn(x: int) -> int:
    end = asyncio.get_running_loop().time() + 60
    while (left := end - asyncio.get_running_loop().time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)
    return x


@pytest.mark.parametrize("item_timeout", [7.0, 9.0])
def test_an_item_that_is_given_up_after_its_time_with_the_whole_batch_is_kept_as_timed_out(
    item_timeout: float, run_virtual: Run, path: Path
) -> None:
    async def main() -> Any:
        batch = processor(stubborn, 2, path, item_timeout=item_timeout, batch_timeout=5.0)
        results = await batch.batch(x for x in range(9))
        assert asyncio.get_running_loop().time() == pytest.approx(10.0)
        await asyncio.sleep(60)
        return results

    assert [result.status for result in run_virtual(main())] == ["timed_out"] * 2
    assert held(path) == dict.fromkeys(range(2), "timed_out")


@pytest.mark.parametrize("end", ["drain", "stop"])
def test_an_item_that_is_given_up_in_the_turn_in_which_the_batch_ends_has_its_result(
    end: str, run_virtual: Run, path: Path
) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        batch = asyncio.ensure_future(processor(stubborn, 1, path, item_timeout=1.0).batch(range(1)))
        while not (active := active_batches(loop)):
            await asyncio.sleep(0)
        run = active[0]
        assert run._timeouts is not None
        abandon = run._timeouts._abandon

        def and_end(slot: Slot) -> None:
            abandon(slot)
            getattr(run, end)("over")

        run._timeouts._abandon = and_end
        results = await batch
        await asyncio.sleep(60)
        return results

    assert [result.status for result in run_virtual(main())] == ["timed_out"]
    assert held(path) == {0: "timed_out"}


def test_a_stream_that_is_left_while_its_journal_is_read_lets_go_of_it(run: Run, path: Path) -> None:
    async def main() -> None:
        stream = processor(Node(), 2, path).batch_as_completed(range(5))
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await stream.aclose()
        while any(thread.name == "flowrt-journal-file" for thread in threading.enumerate()):
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        assert (await processor(Node(), 2, path).batch(range(5))).success_rate == 1.0

    run(main())
