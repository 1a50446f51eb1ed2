"""Unstarted inputs: what a caller learns of a batch that was ended before its input, on every surface."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import flowrt
from flowrt import (
    BatchFailedError,
    BatchProcessor,
    BatchResult,
    BatchResults,
    FilterNode,
    FlowrtError,
    MapNode,
    NodeContext,
    ReduceNode,
    RetryPolicy,
    WorkflowContext,
)
from flowrt.engine.batch_run import BatchRun, active_batches

Run = Callable[[Any], Any]

LATE = "the batch took longer than batch_timeout=2.5 s"


def generator() -> Iterator[int]:
    index = 0
    while True:
        yield index
        index += 1


async def async_generator() -> AsyncIterator[int]:
    for index in generator():
        yield index


class Sized:
    """Async iterable of a hundred inputs, which knows their number."""

    def __len__(self) -> int:
        return 100

    async def __aiter__(self) -> AsyncIterator[int]:
        for index in range(100):
            yield index


class Idle:
    """Async iterable whose third input never comes."""

    async def __aiter__(self) -> AsyncIterator[int]:
        yield 0
        yield 1
        await asyncio.Event().wait()


SOURCES: list[Callable[[], Any]] = [generator, async_generator, Sized, Idle]


async def steady(x: int) -> int:
    """Take a second, and return even if cancelled, so that no item of a batch that ends early has failed."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(1)
    return x


def from_the_live_page(action: Callable[[BatchRun], None]) -> None:
    """Apply an action to the batch of this loop after two seconds and a half."""
    loop = asyncio.get_running_loop()
    loop.call_later(2.5, lambda: [action(run) for run in active_batches(loop)])


ENDS: dict[str, tuple[dict[str, Any], Callable[[BatchRun], None] | None, type[Exception], str, str]] = {
    "time": ({"batch_timeout": 2.5}, None, TimeoutError, LATE, "failed"),
    "cancel": ({}, lambda run: run.stop("cancelled from the live page", cancels_rest=True), FlowrtError,
               "cancelled from the live page", "failed"),
    "drain": ({}, lambda run: run.drain("drained from the live page"), FlowrtError,
              "drained from the live page", "cancelled"),
}  # fmt: skip


def processor(end: str, **settings: Any) -> BatchProcessor[int, int]:
    return BatchProcessor(steady, 1, telemetry=False, name="cut", **ENDS[end][0], **settings)


def begin(end: str) -> None:
    if (action := ENDS[end][1]) is not None:
        from_the_live_page(action)


@pytest.mark.parametrize("retry", [None, RetryPolicy(2)], ids=["", "retry"])
@pytest.mark.parametrize("shared", [False, True], ids=["", "shared"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("end", ENDS)
def test_raise_for_failures_raises_for_a_batch_ended_before_its_input(
    end: str, source: Callable[[], Any], shared: bool, retry: RetryPolicy | None, run_virtual: Run
) -> None:
    async def main() -> BatchResults[int, int]:
        begin(end)
        return await processor(end, retry=retry, task_per_item=not shared).batch(source())

    results = run_virtual(main())
    count = 2 if source is Idle else 3
    assert [(result.status, result.output) for result in results] == [("ok", index) for index in range(count)]
    _, _, kind, reason, status = ENDS[end]
    for each in (results, pickle.loads(pickle.dumps(results))):
        assert each.batch.status == status
        assert each.report.batch.status == status
        with pytest.raises(BatchFailedError) as raised:
            each.raise_for_failures()
        error = raised.value
        assert (error.failed, error.total) == ([], count)
        assert error.exceptions == (error.cut_off,)
        assert type(error.cut_off) is kind
        of = " of 100" if source is Sized else ""
        assert error.message == str(error.cut_off)
        assert f"batch 'cut' was ended after {count}{of} inputs, before its input had ended ({reason})" in error.message
        assert ("raise batch_timeout" in error.message) is (end == "time")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(twin), twin.failed, twin.total, str(twin.cut_off)) == (str(error), [], count, str(error.cut_off))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("end", ENDS)
def test_stream_ended_before_its_input_raises_after_its_last_result(
    end: str, source: Callable[[], Any], run_virtual: Run
) -> None:
    async def main() -> None:
        begin(end)
        stream = processor(end).batch_as_completed(source())
        taken = [(await anext(stream)).index for _ in range(2 if source is Idle else 3)]
        with pytest.raises(BatchFailedError, match=r"before its input had ended") as raised:
            await anext(stream)
        assert taken == list(range(len(taken)))
        assert (raised.value.failed, raised.value.total) == ([], len(taken))
        assert isinstance(raised.value.cut_off, ENDS[end][2])
        assert stream.report is not None
        assert stream.report.batch is not None
        assert stream.report.batch.cut_off is raised.value.cut_off
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run_virtual(main())


def test_error_names_the_failed_items_and_the_early_end(run_virtual: Run) -> None:
    async def fails(x: int) -> int:
        await asyncio.sleep(1)
        raise ValueError("no")

    results = run_virtual(BatchProcessor(fails, 1, telemetry=False, batch_timeout=1.5).batch(generator()))
    with pytest.raises(
        BatchFailedError, match=r"2 of 2 items failed \(1 ValueError, 1 CancelledError\).*: no; batch '"
    ) as raised:
        results.raise_for_failures()
    assert [type(error).__name__ for error in raised.value.exceptions] == [
        "ValueError",
        "ItemFailedError",
        "TimeoutError",
    ]
    assert [result.index for result in raised.value.failed] == [0, 1]


class Liar(list[int]):
    """List of three inputs that claims to hold a hundred, and is iterated by code of its own."""

    def __len__(self) -> int:
        return 100


async def slow(x: int) -> int:
    """Node that returns although its batch is ended meanwhile."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(4)
    return x


def three() -> Iterator[int]:
    yield from range(3)


async def three_async() -> AsyncIterator[int]:
    for index in range(3):
        yield index


@pytest.mark.parametrize("retry", [None, RetryPolicy(2)], ids=["", "retry"])
@pytest.mark.parametrize("make", [lambda: range(3), lambda: [0, 1, 2], lambda: {0, 1, 2}, three, three_async])
@pytest.mark.parametrize("end", ENDS)
def test_input_that_has_ended_is_complete_however_its_batch_ends(
    end: str, make: Callable[[], Any], retry: RetryPolicy | None, run_virtual: Run
) -> None:
    async def main() -> BatchResults[int, int]:
        begin(end)
        its = ENDS[end][0]
        return await BatchProcessor(slow, 4, telemetry=False, retry=retry, **its).batch(make())

    results = run_virtual(main())
    assert results.cut_off is None
    assert results.raise_for_failures().outputs == [0, 1, 2]


def breaks() -> Iterator[int]:
    yield 0
    raise OSError("the source broke")


async def breaks_async() -> AsyncIterator[int]:
    yield 0
    raise OSError("the source broke")


@pytest.mark.parametrize("retry", [None, RetryPolicy(2)], ids=["", "retry"])
@pytest.mark.parametrize("make", [breaks, breaks_async])
@pytest.mark.parametrize("end", ENDS)
def test_error_of_the_source_is_raised_even_if_the_batch_is_then_ended(
    end: str, make: Callable[[], Any], retry: RetryPolicy | None, run_virtual: Run
) -> None:
    async def main() -> None:
        begin(end)
        with pytest.raises(OSError, match="the source broke") as raised:
            await BatchProcessor(slow, 4, telemetry=False, retry=retry, **ENDS[end][0]).batch(make())
        assert raised.value.results.outputs == [0]  # type: ignore[attr-defined]
        begin(end)
        stream = BatchProcessor(slow, 4, telemetry=False, retry=retry, **ENDS[end][0]).batch_as_completed(make())
        assert (await anext(stream)).output == 0
        with pytest.raises(OSError, match="the source broke"):
            await anext(stream)

    run_virtual(main())


@pytest.mark.parametrize("end", ENDS)
def test_inputs_of_known_number_have_a_result_each_and_end_a_stream_normally(end: str, run_virtual: Run) -> None:
    async def main() -> None:
        begin(end)
        results = await processor(end).batch(range(3_000))
        assert len(results) == 3_000
        assert results.cut_off is None
        with pytest.raises(BatchFailedError, match=r"of 3,000 items failed \(2,99\d CancelledError\)"):
            results.raise_for_failures()
        begin(end)
        assert len([result async for result in processor(end).batch_as_completed(range(30))]) == 30

    run_virtual(main())


def test_length_that_was_too_high_is_no_early_end(run_virtual: Run) -> None:
    async def main() -> None:
        begin("cancel")
        results = await processor("cancel").batch(Liar([0, 1, 2, 3, 4]))
        assert [result.status for result in results] == ["ok"] * 3 + ["cancelled"] * 2
        assert results.cut_off is None

    run_virtual(main())


def test_signal_that_returns_results_ends_a_stream_quietly(run_virtual: Run) -> None:
    async def main() -> None:
        from_the_live_page(lambda run: run.drain("shutting down", quietly=True))
        stream = processor("drain").batch_as_completed(generator())
        assert [result.output async for result in stream] == [0, 1, 2]
        assert stream.report is not None
        assert stream.report.batch is not None
        assert stream.report.batch.status == "cancelled"
        from_the_live_page(lambda run: run.drain("shutting down", quietly=True))
        results = await processor("drain").batch(generator())
        with pytest.raises(BatchFailedError, match=r"\(shutting down\)"):
            results.raise_for_failures()

    run_virtual(main())


@pytest.mark.parametrize("journal", [False, True])
def test_retry_failed_keeps_the_early_end(journal: bool, tmp_path: Path, run: Run) -> None:
    calls: list[int] = []

    async def flaky(x: int) -> int:
        calls.append(x)
        if x == 0 and calls.count(0) == 1:
            raise ValueError("not yet")
        return x

    async def source() -> AsyncIterator[int]:
        yield 0
        yield 1
        await asyncio.Event().wait()

    async def main() -> None:
        settings: dict[str, Any] = {"journal": tmp_path / "its.journal"} if journal else {}
        its = BatchProcessor(flaky, 2, telemetry=False, batch_timeout=0.3, **settings)
        results = await its.batch(source())
        assert [result.status for result in results] == ["failed", "ok"]
        again = await its.retry_failed(results)
        assert [result.success for result in again] == [True, True]
        with pytest.raises(BatchFailedError, match="after 2 inputs, before its input had ended") as raised:
            again.raise_for_failures()
        assert raised.value.cut_off is results.cut_off
        whole = await its.retry_failed(list(again))  # a plain list says nothing about the batch
        assert whole.raise_for_failures().outputs == [0, 1]

    run(main())


def test_same_call_with_a_journal_continues_after_an_early_end(tmp_path: Path, run: Run) -> None:
    calls: list[int] = []

    async def node(x: int) -> int:
        calls.append(x)
        return x

    async def source(blocks: bool) -> AsyncIterator[int]:
        for index in range(6):
            if blocks and index == 3:
                await asyncio.Event().wait()
            yield index

    async def main() -> None:
        its = BatchProcessor(node, 2, telemetry=False, journal=tmp_path / "its.journal")
        its.batch_timeout = 0.3
        with pytest.raises(
            BatchFailedError, match=r"after 3 inputs.*use a journal, with which the same call continues"
        ):
            (await its.batch(source(True))).raise_for_failures()
        its.batch_timeout = None
        results = (await its.batch(source(False))).raise_for_failures()
        assert [result.status for result in results] == ["resumed"] * 3 + ["ok"] * 3

    run(main())
    assert calls == list(range(6))


def test_nodes_over_a_collection_that_is_cut_off_fail_or_are_cancelled(run_virtual: Run) -> None:
    def add(total: int, x: int) -> int:
        return total + x

    async def is_odd(x: int) -> bool:
        await asyncio.sleep(1)
        return bool(x % 2)

    async def slow_add(total: int, x: int) -> int:
        await asyncio.sleep(1)
        return add(total, x)

    async def child(data: dict[str, Any]) -> int:
        return await steady(data["item"])

    nodes = [MapNode("map", child, max_concurrency=1), FilterNode("filter", is_odd), ReduceNode("sum", slow_add, 0)]

    async def outer(node: Any) -> None:
        results = await BatchProcessor(node, 1, telemetry=False, batch_timeout=2.5).batch(
            [{"items": async_generator()}]
        )
        assert [result.success for result in results] == [False]
        with pytest.raises(BatchFailedError):
            results.raise_for_failures()

    async def drained() -> None:
        from_the_live_page(lambda run: run.drain("drained from the live page"))
        context = NodeContext("map", "map", {"items": async_generator()})
        result = await nodes[0].execute(context, WorkflowContext())
        assert not result.success
        assert result.error == "its batch was ended before all of its items had run"

    for node in nodes:
        run_virtual(outer(node))
    run_virtual(drained())


def test_batch_results_of_your_own_have_no_early_end() -> None:
    assert BatchResults([BatchResult(0, None, True, 1)]).raise_for_failures().outputs == [1]
    assert BatchResults().cut_off is None


def test_map_and_a_configured_node_report_the_early_end(run_virtual: Run) -> None:
    for results in (
        run_virtual(flowrt.map(steady, async_generator(), max_concurrency=1, batch_timeout=2.5, telemetry=False)),
        run_virtual(flowrt.node(max_concurrency=1, batch_timeout=2.5, telemetry=False)(steady).map(Idle())),
    ):
        with pytest.raises(BatchFailedError):
            results.raise_for_failures()


# -- odd combinations: a result for each input that was read, or an error


async def quick(x: int) -> int:
    return x


@pytest.mark.parametrize("shared", [False, True], ids=["", "shared"])
@pytest.mark.parametrize("limit_s", [5e-324, 1e-9])
def test_time_limit_that_is_too_short_for_any_item(limit_s: float, shared: bool, run_virtual: Run) -> None:
    its = BatchProcessor(steady, 2, telemetry=False, batch_timeout=limit_s, task_per_item=not shared)
    assert len(run_virtual(its.batch(range(5)))) == 5
    assert run_virtual(its.batch([])).raise_for_failures() == []
    for source in (generator, async_generator):
        results = run_virtual(its.batch(source()))
        assert [result.index for result in results] == list(range(len(results)))
        with pytest.raises(BatchFailedError, match="before its input had ended"):
            results.raise_for_failures()


def test_batch_over_a_stream_that_was_cut_off_fails(run_virtual: Run) -> None:
    async def main() -> None:
        stream = processor("time").batch_as_completed(async_generator())
        outer = BatchProcessor(lambda result: quick(result.output), 2, telemetry=False)
        with pytest.raises(BatchFailedError, match=r"batch 'cut' was ended after 3 inputs") as raised:
            await outer.batch(stream)
        assert raised.value.results.outputs == [0, 1, 2]  # type: ignore[attr-defined]

    run_virtual(main())


@pytest.mark.parametrize("then", ["raises", "yields", "sleeps on"])
def test_source_that_resists_its_end_is_cut_off_all_the_same(then: str, run_virtual: Run) -> None:
    async def source() -> AsyncIterator[int]:
        yield 0
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if then == "raises":
                raise OSError("cannot be closed") from None
            if then == "sleeps on":
                await asyncio.sleep(3600)
            yield 1

    async def main() -> BatchResults[int, int]:
        results = await processor("time").batch(source())
        assert asyncio.get_running_loop().time() <= 2.5 + 5.1
        return results

    results = run_virtual(main())
    assert [result.status for result in results] == ["ok", "cancelled"][: 1 + (then == "yields")]
    with pytest.raises(BatchFailedError, match="before its input had ended"):
        results.raise_for_failures()


@pytest.mark.parametrize("end", ["time", "drain"])
def test_fail_fast_batch_that_is_cut_off_reports_it(end: str, run_virtual: Run) -> None:
    async def main() -> None:
        begin(end)
        results = await processor(end).batch(async_generator(), continue_on_error=False)
        with pytest.raises(BatchFailedError, match="after 3 inputs"):
            results.raise_for_failures()

    run_virtual(main())


@pytest.mark.parametrize("end", ENDS)
def test_paused_batch_that_is_ended_reports_inputs_not_read(end: str, run_virtual: Run) -> None:
    async def main() -> None:
        begin(end)
        loop = asyncio.get_running_loop()
        loop.call_later(1.5, lambda: [run.pause() for run in active_batches(loop)])
        results = await processor(end).batch(generator())
        assert [result.status for result in results] == ["ok", "ok"]
        with pytest.raises(BatchFailedError, match="after 2 inputs"):
            results.raise_for_failures()

    run_virtual(main())
