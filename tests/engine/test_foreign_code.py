"""Foreign code: odd exceptions, outputs, functions, sources and callers that were not written for flowrt."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from flowrt import BaseNode, BatchProcessor, BatchResults, CircuitBreaker, FunctionNode, NodeResult
from flowrt.batch.partial_results import PartialResults
from flowrt.errors import MissingExtraError
from flowrt.journal import JournalPolicy
from flowrt.model.result import ItemFailedError

Run = Callable[[Any], Any]


def processor(node: Any, concurrency: int = 3, **options: Any) -> BatchProcessor:
    return BatchProcessor(node, concurrency, telemetry=options.pop("telemetry", False), **options)


async def double(x: int) -> int:
    await asyncio.sleep(0.01)
    return 2 * x


# -- exceptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [StopAsyncIteration, StopIteration])
def test_stop_iteration_of_an_item_does_not_end_the_stream_silently(kind: type[Exception], run_virtual: Run) -> None:
    async def node(x: int) -> int:
        if x == 5:
            raise kind
        return x

    async def main() -> None:
        async for _ in processor(node, 2, continue_on_error=False).batch_as_completed(range(100)):
            pass

    with pytest.raises((RuntimeError, ItemFailedError), match="Stop"):
        run_virtual(main())


class NoErrors(Exception):  # noqa: N818
    """Exception that is falsy, as the lists of errors of some validation libraries are."""

    status = 404

    def __len__(self) -> int:
        return 0


def test_exception_that_is_falsy_counts_as_an_exception(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        raise NoErrors("nothing found")

    with pytest.raises(NoErrors):
        run_virtual(processor(node, continue_on_error=False).batch(range(3)))
    breaker = CircuitBreaker(minimum=2)
    results = run_virtual(processor(node, 1, breaker=breaker).batch(range(10)))
    assert {result.error_type for result in results} == {"NoErrors"}
    assert breaker.state == "closed", "a 404 does not count as a failure of the service"


# -- nodes and outputs -------------------------------------------------------------------------------------------------


def yields(x: int) -> Iterator[int]:
    yield x


async def yields_async(x: int) -> AsyncIterator[int]:
    yield x


class Yields:
    def __call__(self, x: int) -> Iterator[int]:
        yield x


class YieldingNode(BaseNode):
    async def execute(self, node_context: Any, workflow_context: Any) -> Any:  # type: ignore[override]
        yield NodeResult(True, 1)


@pytest.mark.parametrize(
    "node",
    [yields, yields_async, Yields(), functools.partial(yields), YieldingNode("yielding")],
    ids=["generator", "async generator", "object", "partial", "BaseNode"],
)
def test_generator_function_is_refused_as_a_node(node: Any) -> None:
    with pytest.raises(TypeError, match=r"generator function: calling it runs none of its body"):
        BatchProcessor(node)
    if not isinstance(node, BaseNode):
        with pytest.raises(TypeError, match=r"generator function"):
            FunctionNode(node)


@pytest.mark.parametrize("kind", ["generator", "async generator", "coroutine"])
@pytest.mark.parametrize("form", ["value", "NodeResult", "plain function", "subclass"])
def test_output_that_is_an_unstarted_generator_fails_its_item(kind: str, form: str, run: Run) -> None:
    class Own(NodeResult):
        pass

    def make(x: int) -> Any:
        return {"generator": yields, "async generator": yields_async, "coroutine": double}[kind](x)

    async def node(x: int) -> Any:
        return make(x) if form == "value" else (Own if form == "subclass" else NodeResult)(True, make(x))

    def plain(x: int) -> Any:
        return NodeResult(True, make(x))

    results = run(processor(plain if form == "plain function" else node).batch(range(2)))
    assert [result.status for result in results] == ["failed", "failed"]
    assert all(f"returned a{'n' if kind[0] == 'a' else ''} {kind}" in result.error for result in results)
    assert {result.error_type for result in results} == {"TypeError"}


def test_other_iterators_are_outputs(run: Run) -> None:
    async def node(x: int) -> Any:
        return map(str, range(x))

    assert [list(result.output) for result in run(processor(node).batch([2]))] == [["0", "1"]]


def test_plain_function_that_needs_the_loop_fails_with_the_fix(run: Run) -> None:
    def node(x: int) -> Any:
        return asyncio.get_running_loop().create_future()

    (result,) = run(processor(node).batch([1]))
    assert "make it `async def`" in result.error


def test_result_fed_back_as_an_input_is_an_input(run_virtual: Run) -> None:
    async def main() -> list[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for item in (1, 2, None):
            queue.put_nowait(item)

        async def inputs() -> AsyncIterator[Any]:
            while (item := await queue.get()) is not None:
                yield item
            yield first[0]

        async def node(x: Any) -> Any:
            return x if isinstance(x, int) else f"again: {x.output}"

        first: list[Any] = []
        found = []
        async for result in processor(node, 1, retry=2).batch_as_completed(inputs()):
            first.append(result)
            found.append(result.output)
        return found

    assert run_virtual(main()) == [1, 2, "again: 1"]


# -- the source --------------------------------------------------------------------------------------------------------


class Sealed(Exception):  # noqa: N818
    """Exception that refuses a `results` attribute."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "results":
            raise AttributeError(name)
        super().__setattr__(name, value)


@pytest.mark.parametrize("error", [ConnectionError("cursor lost"), Sealed("cursor lost")], ids=["plain", "sealed"])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("retry", [None, 2])
def test_results_before_the_source_raised_come_with_its_error(
    error: Exception, kind: str, retry: int | None, run_virtual: Run
) -> None:
    def rows() -> Iterator[int]:
        yield from range(50)
        raise error

    async def rows_async() -> AsyncIterator[int]:
        for x in range(50):
            yield x
        raise error

    with pytest.raises(type(error), match="cursor lost") as caught:
        run_virtual(processor(double, retry=retry).batch(rows() if kind == "sync" else rows_async()))
    if isinstance(error, Sealed):
        assert any("50 items had finished" in note for note in caught.value.__notes__)
    else:
        results: Any = caught.value.results  # type: ignore[attr-defined]
        assert isinstance(results, BatchResults)
        assert [result.output for result in results] == [2 * x for x in range(50)]


def test_error_of_an_item_carries_no_results(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        raise ValueError(x)

    with pytest.raises(ValueError, match="0") as caught:
        run_virtual(processor(node, continue_on_error=False).batch(range(5)))
    assert not hasattr(caught.value, "results")


# -- the consumer ------------------------------------------------------------------------------------------------------


def test_stream_whose_read_was_cancelled_explains_the_next_read(run_virtual: Run) -> None:
    async def slow(x: int) -> int:
        await asyncio.sleep(10)
        return x

    async def main() -> None:
        stream = processor(slow).batch_as_completed(range(5))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 1)
        with pytest.raises(RuntimeError, match=r"ended when a wait for its next result was cancelled"):
            await anext(stream)
        await stream.aclose()

    run_virtual(main())


@pytest.mark.parametrize("second", ["cancel", "leave", "timeout", "drain"])
@pytest.mark.parametrize("first", ["cancel", "leave", "timeout", "drain"])
def test_stream_ends_after_any_two_ways_to_end_it_in_any_order(first: str, second: str, run_virtual: Run) -> None:
    from flowrt.engine.batch_run import active_batches

    async def slow(x: int) -> int:
        await asyncio.sleep(0.01 if x < 3 else 3600)
        return x

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeout = 0.5 if "timeout" in (first, second) else None
        stream = processor(slow, 4, batch_timeout=timeout).batch_as_completed(list(range(100)))

        async def consume() -> None:
            async for result in stream:
                if result.index == 2:
                    await asyncio.sleep(1)

        consumer = asyncio.ensure_future(consume())
        await asyncio.sleep(0.1)
        for step in (first, second):
            if step == "drain":
                for run in active_batches(loop):
                    run.drain("shutting down")
            elif step == "cancel":
                consumer.cancel()
            elif step == "leave":
                leaving = asyncio.ensure_future(stream.aclose())
                await asyncio.sleep(0)
                leaving.cancel() if second == "cancel" else None
            await asyncio.sleep(0.6)
        consumer.cancel()
        await asyncio.wait([consumer], timeout=60)
        await asyncio.wait([asyncio.ensure_future(stream.aclose())], timeout=60)
        assert active_batches(loop) == []

    run_virtual(main())


def test_stream_has_a_report_at_its_end(run_virtual: Run) -> None:
    async def main() -> None:
        stream = processor(double, 5, telemetry=True).batch_as_completed(range(50))
        assert stream.report is None
        async for _ in stream:
            pass
        report = stream.report
        assert report is not None
        assert (report.total, report.succeeded) == (50, 50)
        assert report.wall_time == pytest.approx(0.1, abs=0.01)
        assert sum(report.bound_by.values()) == pytest.approx(report.wall_time, abs=0.001)
        assert report.speedup is not None
        assert report.detail.counts["ok"] == 50

    run_virtual(main())


# -- the journal -------------------------------------------------------------------------------------------------------


def test_journal_is_released_when_its_batch_is_cancelled_as_it_opens(tmp_path: Any, run: Run) -> None:
    path = tmp_path / "run.journal"

    async def cancelled_at_once() -> None:
        work = asyncio.ensure_future(processor(double, journal=JournalPolicy(path)).batch(range(3)))
        for _ in range(2):
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    async def again() -> int:
        for _ in range(100):  # the thread that was opening it closes it
            try:
                return len(await processor(double, journal=JournalPolicy(path)).batch(range(3)))
            except Exception:
                await asyncio.sleep(0.05)
        return 0

    asyncio.run(cancelled_at_once())
    assert run(again()) == 3


# -- batches that end with millions of inputs left ---------------------------------------------------------------------


@pytest.mark.parametrize("telemetry", [False, True])
def test_batch_timeout_with_millions_of_inputs_left_returns_in_time(telemetry: bool, run_virtual: Run) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        began = loop.time()
        batch = processor(double, 10, batch_timeout=0.5, telemetry=telemetry)
        results = await batch.batch(range(2_000_000))
        assert loop.time() - began < 5.5
        return results

    results = run_virtual(main())
    assert isinstance(results, PartialResults)
    assert len(results) == 2_000_000
    last = results[-1]
    assert (last.index, last.input_data, last.status, last.error_type) == (
        1_999_999,
        1_999_999,
        "cancelled",
        "CancelledError",
    )
    assert last.error == "not started: the batch took longer than batch_timeout=0.5 s"
    assert last.attempts == 0
    assert results[-1] is last
    counts = results.batch.counts
    assert sum(counts.values()) == 2_000_000
    assert counts["ok"] == sum(results[index].success for index in range(1000))
    assert results.success_rate == counts["ok"] / 2_000_000


def partial_results(run_virtual: Run) -> PartialResults:
    found = run_virtual(processor(double, 2, batch_timeout=0.05).batch(list(range(3000))))
    assert isinstance(found, PartialResults)
    return found


def test_partial_results_behave_like_a_list_of_results(run_virtual: Run) -> None:
    def fresh() -> PartialResults:
        return partial_results(run_virtual)

    whole = list(fresh())
    assert [result.index for result in whole] == list(range(3000))
    assert [result.index for result in fresh()[2990:]] == list(range(2990, 3000))
    assert [result.index for result in reversed(fresh())] == list(range(2999, -1, -1))
    assert fresh() == whole
    assert [*fresh()] == whole
    assert whole[2000] in fresh()
    assert fresh().index(whole[2000]) == 2000
    assert fresh().pop().index == 2999
    backwards = fresh()
    backwards.sort(key=lambda result: -result.index)
    assert backwards[0].index == 2999
    assert len(fresh().failed) == sum(not result.success for result in whole)
    assert fresh().report.total == 3000
    for copied in (copy.copy(fresh()), copy.deepcopy(fresh()), pickle.loads(pickle.dumps(fresh()))):
        assert list(copied) == whole
    changed = fresh()
    changed[2000].error = "mine"
    assert (changed[2000].error, changed[2001].error) == ("mine", whole[2001].error)
    with pytest.raises(IndexError):
        fresh()[3000]


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_results_and_their_report_can_be_copied(duplicate: Any, run_virtual: Run) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(0.1)
        if x == 1:
            raise ValueError("one")
        return x

    results = run_virtual(processor(node, 2, telemetry=True, name="copied").batch(range(4)))
    twin = duplicate(results)
    assert [(r.status, r.output, r.error) for r in twin] == [(r.status, r.output, r.error) for r in results]
    assert (twin.name, twin.wall_time, twin.success_rate) == (results.name, results.wall_time, results.success_rate)
    assert twin[1].exception.args == ("one",)
    report, again = results.report, duplicate(twin.report)
    assert again.bound_by == report.bound_by
    assert str(again) == str(report)
    assert again.explanation == report.explanation


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_results_of_a_loop_with_a_heartbeat_can_be_copied(duplicate: Any, run: Run) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(0.01)
        return x

    results = run(processor(node, 2, telemetry=True).batch(range(4)))
    ledger = results.batch.ledger
    assert ledger is not None
    assert ledger.busy_time is not None, "virtual time has no heartbeat, and so no state of the loop"
    twin = duplicate(results)
    assert twin.outputs == [0, 1, 2, 3]
    assert twin.batch.speedup == results.batch.speedup
    assert str(twin.report) == str(results.report)


def test_error_of_a_missing_extra_can_be_pickled() -> None:
    error = MissingExtraError("a progress bar", "rich", "cli")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
