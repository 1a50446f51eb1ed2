"""Durability of a batch with a journal: order of sync and result, resuming, failing disks and early ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

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
from flowrt.testing import assert_conserved, capture_telemetry, run_on, run_virtual
from tests.journal.harness import BROKEN, FINGERPRINT, FULL, FaultyDisk

Run = Callable[[Any], Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.journal"


class Node:
    """Node that counts the runs of each item and fails the items in `failing`.

    Args:
        seconds: Duration of a run, in seconds.
        failing: Items that fail; the test may change the set.
    """

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


async def consume(batch: BatchProcessor, inputs: Any) -> list[BatchResult]:
    return [result async for result in batch.batch_as_completed(inputs)]


def journaled(path: Path) -> dict[int, str]:
    """The status of each item in a journal, by index."""
    return {result.index: result.status for result in records(path)}


# -- durable before delivery ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asyncio", "uvloop", "virtual"])
def test_item_is_journaled_before_its_result_or_its_end_is_reported(
    kind: str, path: Path, request: pytest.FixtureRequest
) -> None:
    finished: list[int] = []

    class Watch(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            assert item.index in journaled(path)
            finished.append(item.index)

    async def main() -> None:
        batch = processor(Node(), 4, path, instruments=[Watch()])
        async for result in batch.batch_as_completed(range(20)):
            assert journaled(path)[result.index] == "ok"

    from tests.conftest import LOOPS

    run_on(LOOPS[kind], main())
    assert sorted(finished) == list(range(20))


def test_items_run_but_not_yet_durable_stay_within_the_limit(run: Run, path: Path) -> None:
    node, most = Node(0), 0
    durable: set[int] = set()

    class Watch(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            nonlocal most
            most = max(most, len(node.runs) - len(durable))
            durable.add(item.index)

    results = run(processor(node, 7, path, instruments=[Watch()]).batch(range(300)))
    assert results.success_rate == 1.0
    assert most <= 7


def test_many_items_share_one_sync(path: Path) -> None:
    disk = FaultyDisk()

    async def main() -> None:
        with Journal(path, FINGERPRINT, disk=disk) as journal:
            await processor(Node(), 50, journal).batch(range(500))

    run_virtual(main())
    assert disk.calls.count("sync") < 20
    assert len(journaled(path)) == 500


def test_item_that_fails_at_once_waits_for_its_journal(run: Run, path: Path) -> None:
    complaints: list[Any] = []

    async def node(x: int) -> int:
        if x % 3:
            raise ValueError(f"{x} fails")
        return x

    async def main() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        return await asyncio.wait_for(processor(node, 2, path).batch(range(20)), 60)

    results = run(main())
    assert [result.status for result in results] == ["failed" if x % 3 else "ok" for x in range(20)]
    assert len(journaled(path)) == 20
    assert complaints == []


# -- resuming ------------------------------------------------------------------------------------------------------


def test_later_batch_runs_only_items_that_no_earlier_batch_finished(run_virtual: Run, path: Path) -> None:
    first, second = Node(), Node()

    async def main() -> None:
        stream = processor(first, 3, path).batch_as_completed(range(30))
        async with stream:
            for _ in range(10):
                await anext(stream)
        kept = journaled(path)
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
    again = run_virtual(processor(Node(), 3, path).batch(range(30)))
    assert {result.status for result in again} == {"resumed"}


def test_failed_items_are_restored_and_rerun_with_retry_failed(run_virtual: Run, path: Path) -> None:
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


def test_report_leaves_out_the_times_of_resumed_items(run_virtual: Run, path: Path) -> None:
    run_virtual(processor(Node(failing={1, 4}), 2, path).batch(range(6)))
    results = run_virtual(processor(Node(), 2, path).batch(range(7)))
    assert results.report.counts == {"ok": 1, "failed": 2, "timed_out": 0, "cancelled": 0, "resumed": 4}
    assert results.report.service_times.count == 1
    assert results.report.claimed_speedup == pytest.approx(results[6].execution_time / results.wall_time)


def test_resumed_items_are_counted_traced_and_accounted_for(run_virtual: Run, path: Path) -> None:
    run_virtual(processor(Node(failing={2}), 2, path).batch(range(5)))
    with capture_telemetry() as telemetry:
        results = run_virtual(processor(Node(), 2, path, telemetry=True, name="again").batch(range(7)))
    assert results.report.counts == {"ok": 2, "failed": 1, "timed_out": 0, "cancelled": 0, "resumed": 4}
    assert_conserved(results, 7, telemetry)
    telemetry.assert_counted(2, "flowrt_item_attempts_total", status="ok")
    telemetry.assert_counted(0, "flowrt_item_attempts_total", status="failed")
    telemetry.assert_counted(0, "flowrt_item_duration_seconds_count", status="failed")
    telemetry.assert_counted(2, "flowrt_item_queue_wait_seconds_count")
    telemetry.assert_counted(0, "flowrt_unaccounted_items")
    spans = [telemetry.span_of(result) for result in results]
    assert [span.attributes["flowrt.item.index"] for span in spans if span.attributes] == list(range(7))


def test_async_input_is_resumed_too(run_virtual: Run, path: Path) -> None:
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


def test_retried_item_is_journaled_once_with_all_its_attempts(run_virtual: Run, path: Path) -> None:
    node = Node(failing={1})
    retry = RetryPolicy(attempts=3, base=1.0)
    run_virtual(processor(node, 2, path, retry=retry).batch(range(3)))
    kept = list(records(path))
    assert sorted((result.index, result.attempts) for result in kept) == [(0, 1), (1, 3), (2, 1)]
    again = run_virtual(processor(node, 2, path, retry=retry).batch(range(3)))
    assert again[1].attempts == 3
    assert node.runs == Counter({0: 1, 1: 3, 2: 1})


def test_resumed_items_add_nothing_to_the_retry_budget(run_virtual: Run, path: Path) -> None:
    retry = RetryPolicy(2, budget=0.5, budget_minimum=0, wait=lambda _: 1.0)
    run_virtual(processor(Node(), 10, path).batch(range(100)))
    node = Node(failing={*range(100, 120)})
    run_virtual(processor(node, 1, path, retry=retry).batch(range(120)))
    assert sum(node.runs.values()) == 20 + 10


def test_resumed_items_add_nothing_to_the_share_of_hedges(run_virtual: Run, path: Path) -> None:
    run_virtual(processor(Node(), 10, path).batch(range(100)))
    node = Node(seconds=10.0)
    run_virtual(processor(node, 50, path, hedge=Hedge(1.0, share=0.1)).batch(range(110)))
    assert sum(node.runs.values()) == 10 + 2


def test_item_without_an_attempt_is_not_journaled(run_virtual: Run, path: Path) -> None:
    inputs = [0, Rejected("line 2: not JSON", input_data="x"), 2]
    for _ in range(2):
        results = run_virtual(processor(Node(), 2, path).batch(inputs))
        assert results[1].error == "line 2: not JSON"
        assert sorted(journaled(path)) == [0, 2]
    node = Node(failing={0, 1, 2})
    breaker = CircuitBreaker(failure_ratio=0.5, minimum=3, cooldown=3600.0, open="fail")
    run_virtual(processor(node, 1, path.with_name("other"), breaker=breaker).batch(range(6)))
    assert journaled(path.with_name("other")) == dict.fromkeys(range(len(node.runs)), "failed")
    assert len(node.runs) < 6


def test_retry_failed_takes_the_other_items_from_the_journal(run_virtual: Run, path: Path) -> None:
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
    assert journaled(path) == {0: "ok", 1: "ok", 3: "failed"}


# -- journals of other runs ----------------------------------------------------------------------------------------


def test_journal_of_another_run_is_refused_before_any_work(run_virtual: Run, path: Path) -> None:
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
            run_virtual(consume(batch, inputs))
    assert node.runs.total() == ran
    assert run_virtual(processor(node, 2, path).batch(range(5)))[4].status == "ok"  # each refusal released the lock


def test_second_batch_on_a_journal_is_refused_and_the_first_goes_on(run: Run, path: Path) -> None:
    async def main() -> None:
        stream = processor(Node(), 2, path).batch_as_completed(range(20))
        seen = [(await anext(stream)).index]
        with pytest.raises(JournalInUseError, match="in use by another run"):
            await processor(Node(), 2, path).batch(range(20))
        seen += [result.index async for result in stream]
        assert sorted(seen) == list(range(20))

    run(main())


def test_open_journal_serves_one_batch_and_stays_open(run_virtual: Run, path: Path) -> None:
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
    assert sorted(journaled(path)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("journal", "error"),
    [(3, TypeError), ("", ValueError), (b"j", TypeError), (True, TypeError)],
)
def test_journal_argument_of_a_wrong_type_is_refused_before_any_work(journal: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="journal"):
        processor(Node(), 2, journal)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"retry_failed": 1}, "retry_failed"), ({"check_inputs": None}, "check_inputs"), ({"fingerprint": 3}, "mapping")],
)
def test_journal_policy_is_validated_at_construction(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        JournalPolicy("j", **settings)


# -- the disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asyncio", "uvloop", "virtual"])
@pytest.mark.parametrize(("operation", "code"), [("write", FULL), ("write", BROKEN), ("sync", BROKEN), ("sync", FULL)])
def test_failing_disk_ends_the_batch_and_a_later_batch_completes_it(
    kind: str, operation: str, code: int, path: Path
) -> None:
    from tests.conftest import LOOPS

    node, finished = Node(0.001), []
    unkept: list[Any] = []
    disk = FaultyDisk({operation: (6, code)})

    class Watch(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            finished.append((item.index, item.status, item.error_type))
            if item.status == "cancelled":
                unkept.append(item.output)

    async def main() -> None:
        with Journal(path, FINGERPRINT, disk=disk) as journal:
            await processor(node, 3, journal, instruments=[Watch()]).batch(range(100))

    with pytest.raises(JournalDiskError, match="mend the disk and resume"):
        run_on(LOOPS[kind], main())
    assert disk.calls.count("sync") <= 6 + 1  # a failed sync is never repeated
    ok = {index for index, status, _ in finished if status == "ok"}
    cancelled = {error_type for _, status, error_type in finished if status == "cancelled"}
    assert ok == set(journaled(path))
    assert "JournalDiskError" in cancelled
    assert set(unkept) == {None}
    assert len(finished) == len({index for index, _, _ in finished}) <= len(ok) + 100

    async def resume() -> Any:
        with Journal(path, FINGERPRINT) as journal:
            return await processor(node, 3, journal).batch(range(100))

    results = run_on(LOOPS[kind], resume())
    assert [result.output for result in results] == [{"v": 10 * x} for x in range(100)]
    assert all(node.runs[index] == 1 for index in ok)
    assert node.runs.total() <= 100 + 3


def test_hung_disk_releases_the_caller_after_the_grace(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "GRACE_S", 0.05)
    resume, entered = threading.Event(), threading.Event()

    class Hung(FaultyDisk):
        def sync(self, fd: int) -> None:
            super().sync(fd)
            if self.calls.count("sync") > 2:
                entered.set()
                resume.wait(60)

    finished: list[tuple[str, str | None]] = []

    class Watch(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            finished.append((item.status, item.error))

    async def main() -> None:
        journal = Journal(path, FINGERPRINT, disk=Hung())
        work = asyncio.create_task(processor(Node(0), 2, journal, instruments=[Watch()]).batch(range(5)))
        await asyncio.to_thread(entered.wait, 60)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        resume.set()
        journal.close()

    run_on(asyncio.SelectorEventLoop, main())
    assert [status for status, _ in finished] == ["cancelled"] * 2
    assert "its journal did not answer within 0.05 s" in str(finished)


# -- early ends ----------------------------------------------------------------------------------------------------


def cancel_at(tick: int, main: Any) -> int:
    """Run a coroutine function and cancel it in a tick of the loop; return the number of ticks it ran."""
    ticks = 0

    async def guarded() -> None:
        nonlocal ticks
        work = asyncio.ensure_future(main())
        loop = asyncio.get_running_loop()

        def count() -> None:
            nonlocal ticks
            ticks += 1
            if ticks == tick:
                work.cancel()
            elif not work.done():
                loop.call_soon(count)

        loop.call_soon(count)
        await asyncio.wait([work])
        if not work.cancelled():
            work.result()

    run_on(asyncio.SelectorEventLoop, guarded())
    return ticks


def test_item_of_a_batch_cancelled_at_any_step_is_journaled_or_rerun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the journal is opened on the loop, not in a thread: the ticks are the same in each run
    monkeypatch.setattr("flowrt.batch.journal_opening.is_virtual", lambda _: True)
    at, reached = 0, True
    while reached:
        at += 1
        path, node = tmp_path / f"{at}.journal", Node(0)

        async def main() -> None:
            await processor(node, 3, path).batch(range(8))  # noqa: B023  # runs at once

        reached = cancel_at(at, main) == at
        first, kept = node.runs.copy(), set(journaled(path)) if path.exists() else set()
        results = run_virtual(processor(node, 3, path).batch(range(8)))
        assert [result.output["v"] for result in results] == [10 * x for x in range(8)], at
        assert {result.index for result in results if result.status == "resumed"} == kept, at
        assert all(node.runs[index] == 1 for index in kept), at
        assert all(node.runs[index] == 1 + first[index] for index in set(range(8)) - kept), at
    assert at > 15


def test_interrupt_in_a_node_propagates_and_finished_items_are_kept(run: Run, path: Path) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(0.001)
        if x == 12:
            raise KeyboardInterrupt
        return x

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            await processor(node, 2, path).batch(range(50))

    run(main())
    kept = journaled(path)
    assert len(kept) >= 11
    assert 12 not in kept
    assert set(kept.values()) == {"ok"}


def test_drain_waits_for_the_journal(run_virtual: Run, path: Path) -> None:
    node = Node(1.0)

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.call_later(2.5, lambda: active_batches(loop)[0].drain("shutting down"))
        return await processor(node, 2, path).batch(range(10))

    results = run_virtual(main())
    assert {result.index for result in results.succeeded} == set(range(6)) == set(journaled(path))
    assert {result.status for result in results.failed} == {"cancelled"}
    node.runs.clear()
    assert run_virtual(processor(node, 2, path).batch(range(10))).success_rate == 1.0
    assert set(node.runs) == {6, 7, 8, 9}


@pytest.mark.parametrize("end", ["drain", "stop"])
def test_item_whose_retry_is_cut_off_is_cancelled_and_not_journaled(end: str, run_virtual: Run, path: Path) -> None:
    events: list[tuple[str, int, str]] = []
    seconds, mended = {0: 10.0, 1: 3.0}, False

    class Watch(Instrument):
        def attempt_ended(self, item: ItemRecord) -> None:
            events.append(("ended", item.index, item.status))

        def retry_scheduled(self, item: ItemRecord) -> None:
            events.append(("retry", item.index, item.status))

        def item_finished(self, item: ItemRecord) -> None:
            events.append(("finished", item.index, item.status))

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
        return await processor(node, 2, path, retry=retry, instruments=[Watch()]).batch(range(2))

    results = run_virtual(main())  # the batch ends in the first attempt at item 0 and in the last at item 1
    assert [(result.status, result.attempts) for result in results] == [("cancelled", 1), ("failed", 2)]
    assert results[0].error == "not tried again: over; attempt 1 ended in ConnectionError: no answer to 0"
    assert [event for event in events if event[1] == 0] == [("ended", 0, "cancelled"), ("finished", 0, "cancelled")]
    assert journaled(path) == {1: "failed"}
    mended = True
    assert [result.status for result in run_virtual(main())] == ["ok", "failed"]


def test_journaled_items_are_resumed_even_after_the_batch_timeout(run_virtual: Run, path: Path) -> None:
    run_virtual(processor(Node(failing={0}), 1, path).batch(range(6)))
    policy = JournalPolicy(path, retry_failed=True)

    async def main() -> Any:
        return await processor(Node(seconds=3600), 1, policy, batch_timeout=1.0).batch(range(8))

    statuses = [result.status for result in run_virtual(main())]
    assert statuses == ["cancelled", *["resumed"] * 5, "cancelled", "cancelled"]


class BlockingDisk(FaultyDisk):
    """Disk whose sync of the first group blocks until `resume` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.resume = threading.Event(), threading.Event()

    def sync(self, fd: int) -> None:
        super().sync(fd)
        if self.calls.count("sync") == 3:
            self.entered.set()
            self.resume.wait(60)


@pytest.mark.parametrize("when", ["while it writes", "twice", "as it reports", "once it has reported"])
def test_stray_cancel_while_the_disk_is_busy_changes_nothing(when: str, path: Path) -> None:
    node, disk = Node(0), BlockingDisk()

    def cancel_items() -> None:
        for task in asyncio.all_tasks(asyncio.get_running_loop()):
            if task.get_name() == "cut short":
                task.cancel()

    async def main() -> Any:
        with Journal(path, FINGERPRINT, disk=disk) as journal:
            work = asyncio.ensure_future(processor(node, 2, journal, name="cut short").batch(range(20)))
            await asyncio.to_thread(disk.entered.wait, 60)
            await asyncio.sleep(0.05)
            if when in ("while it writes", "twice"):
                for _ in range(1 + (when == "twice")):
                    cancel_items()
                    await asyncio.sleep(0.05)
                disk.resume.set()
            else:
                disk.resume.set()
                loop: Any = work.get_loop()
                while not loop._ready:  # block the loop until the journal's report is its next callback
                    time.sleep(0.001)
                if when == "as it reports":
                    cancel_items()
                else:
                    work.get_loop().call_soon(cancel_items)
            return await work

    results = run_on(asyncio.SelectorEventLoop, main())
    assert [result.status for result in results] == ["ok"] * 20
    assert set(journaled(path)) == set(range(20))
    assert node.runs.total() == 20


def test_disk_time_does_not_count_against_the_item_timeout(path: Path) -> None:
    disk = BlockingDisk()

    async def main() -> Any:
        asyncio.get_running_loop().call_later(1.5, disk.resume.set)
        with Journal(path, FINGERPRINT, disk=disk) as journal:
            return await processor(Node(0), 2, journal, item_timeout=0.5).batch(range(6))

    results = run_on(asyncio.SelectorEventLoop, main())
    assert [result.status for result in results] == ["ok"] * 6


def test_stream_closed_while_its_journal_is_read_runs_nothing(run: Run, path: Path) -> None:
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


def test_fail_fast_journals_the_failure(run_virtual: Run, path: Path) -> None:
    node = Node(failing={2})

    async def main() -> None:
        await processor(node, 1, path, continue_on_error=False).batch(range(5))

    with pytest.raises(ValueError, match="2 fails"):
        run_virtual(main())
    assert journaled(path) == {0: "ok", 1: "ok", 2: "failed"}
    with pytest.raises(ItemFailedError, match="item 2 failed: 2 fails"):
        run_virtual(main())
    assert node.runs == Counter(range(3))


def test_item_that_ignores_its_timeout_is_journaled_as_timed_out(run_virtual: Run, path: Path) -> None:
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
    assert journaled(path) == {0: "timed_out", 1: "timed_out"}
    assert len(list(records(path))) == 2


async def stubborn(x: int) -> int:
    end = asyncio.get_running_loop().time() + 60
    while (left := end - asyncio.get_running_loop().time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)
    return x


@pytest.mark.parametrize("item_timeout", [7.0, 9.0])
def test_item_abandoned_with_its_batch_is_journaled_as_timed_out(
    item_timeout: float, run_virtual: Run, path: Path
) -> None:
    async def main() -> Any:
        batch = processor(stubborn, 2, path, item_timeout=item_timeout, batch_timeout=5.0)
        results = await batch.batch(x for x in range(9))
        assert asyncio.get_running_loop().time() == pytest.approx(10.0)
        await asyncio.sleep(60)
        return results

    assert [result.status for result in run_virtual(main())] == ["timed_out"] * 2
    assert journaled(path) == dict.fromkeys(range(2), "timed_out")


@pytest.mark.parametrize("end", ["drain", "stop"])
def test_item_abandoned_in_the_tick_in_which_its_batch_ends_times_out(end: str, run_virtual: Run, path: Path) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        batch = asyncio.ensure_future(processor(stubborn, 1, path, item_timeout=1.0).batch(range(1)))
        while not (active := active_batches(loop)):
            await asyncio.sleep(0)
        run = active[0]
        assert run._timeouts is not None
        abandon = run._timeouts._abandon

        def abandon_and_end(slot: Slot) -> None:
            abandon(slot)
            getattr(run, end)("over")

        run._timeouts._abandon = abandon_and_end
        results = await batch
        await asyncio.sleep(60)
        return results

    assert [result.status for result in run_virtual(main())] == ["timed_out"]
    assert journaled(path) == {0: "timed_out"}


def test_stream_cancelled_while_its_journal_is_read_releases_it(run: Run, path: Path) -> None:
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
