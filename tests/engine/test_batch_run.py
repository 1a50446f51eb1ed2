"""Life cycle of a batch: the concurrency bound, every way to end, failing sources, isolation and memory."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import operator
import time
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrt import (
    BatchProcessor,
    CircuitBreaker,
    Hedge,
    Instrument,
    ItemFailedError,
    ItemRecord,
    MapNode,
    NodeContext,
    NodeResult,
    RateLimit,
    RetryPolicy,
    WorkflowContext,
)
from flowrt.engine.batch_run import BatchRun, active_batches
from flowrt.testing import ScriptedNode, hangs, run_virtual
from tests.examples import examples

Run = Callable[[Any], Any]


def processor(node: Any, c: int = 10, **settings: Any) -> BatchProcessor:
    return BatchProcessor(node, c, telemetry=False, **settings)


class Watch:
    """Node that counts its calls: how many run at once, and how each ended.

    Args:
        seconds: Duration of a call, in seconds.
    """

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.running = self.most = self.started = self.cancelled = self.done = 0
        self.at_limit: list[int] = []

    async def __call__(self, x: Any) -> Any:
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.at_limit.append(self.running)
        try:
            await asyncio.sleep(self.seconds)
            if x == "fail":
                raise ValueError("asked to fail")
        except asyncio.CancelledError:
            await asyncio.sleep(self.seconds / 10)  # the clean-up is awaited
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.done += 1
        return x


# -- the concurrency bound


@settings(max_examples=examples(40), deadline=None)
@given(
    c=st.integers(1, 12),
    seconds=st.lists(st.floats(0, 5), max_size=40),
    failing=st.sets(st.integers(0, 39)),
)
def test_results_equal_a_sequential_model_at_any_concurrency(c: int, seconds: list[float], failing: set[int]) -> None:
    running = most = 0

    async def node(item: tuple[int, float]) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(item[1])
        running -= 1
        if item[0] in failing:
            raise ValueError(f"item {item[0]}")
        return item[0] * 10

    inputs = list(enumerate(seconds))
    results = run_virtual(processor(node, c).batch(inputs))
    assert [r.index for r in results] == list(range(len(inputs)))
    assert [r.input_data for r in results] == inputs
    for index, result in enumerate(results):
        if index in failing:
            assert (result.success, result.error, result.output) == (False, f"item {index}", None)
        else:
            assert (result.success, result.error, result.output) == (True, None, index * 10)
    assert most <= c
    if len(inputs) >= c and all(s > 0.001 for s in seconds):
        assert most == c


def test_all_slots_are_busy_while_work_waits(run_virtual: Run) -> None:
    async def main() -> float:
        await processor(asyncio.sleep, 100).batch([0.05] * 5_000)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(5_000 * 0.05 / 100)


def test_huge_limit_makes_no_more_workers_than_items_need(run: Run) -> None:
    async def main() -> int:
        most = 0

        async def node(_: int) -> None:
            nonlocal most
            await asyncio.sleep(0.001)
            most = max(most, len(asyncio.all_tasks()))

        await processor(node, 10_000_000).batch(range(50))
        return most

    assert run(main()) <= 2 * 50 + 3


def test_source_is_pulled_no_faster_than_slots_become_free(run_virtual: Run) -> None:
    watch = Watch(1)
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for i in range(100):
            pulled += 1
            assert pulled - watch.done <= 5
            yield i

    run_virtual(processor(watch, 5).batch(source()))
    assert pulled == 100
    assert watch.most == 5


def test_ten_thousand_items_run_at_once(run_virtual: Run) -> None:
    watch = Watch(60)
    run_virtual(processor(watch, 10_000).batch(range(10_000)))
    assert watch.most == 10_000


# -- ways to end


def test_fail_fast_raises_the_original_after_the_siblings_ended(run_virtual: Run) -> None:
    watch = Watch()

    async def main() -> None:
        with pytest.raises(ValueError, match="asked to fail"):
            await processor(watch, 5).batch(["ok", "ok", "fail", "ok", *["ok"] * 100], continue_on_error=False)
        assert watch.running == 0
        assert watch.started < 15
        assert watch.cancelled + watch.done + 1 == watch.started

    run_virtual(main())


def test_fail_fast_without_an_exception_raises_item_failed_error(run_virtual: Run) -> None:
    async def node(x: int) -> NodeResult:
        await asyncio.sleep(1)
        return NodeResult(x != 2, output="partial", error="no luck")

    with pytest.raises(ItemFailedError, match="item 2 failed: no luck") as raised:
        run_virtual(processor(node, 2, continue_on_error=False).batch(range(9)))
    assert raised.value.result.index == 2
    assert raised.value.result.output == "partial"


def test_call_overrides_continue_on_error_of_the_processor(run_virtual: Run) -> None:
    strict = processor(Watch(), continue_on_error=False)
    assert len(run_virtual(strict.batch(["fail", "ok"], continue_on_error=True)).failed) == 1


def test_wait_for_cancels_the_items_and_leaves_the_processor_usable(run_virtual: Run) -> None:
    watch = Watch(1)
    mine = processor(watch, 5)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mine.batch(range(100)), 2.5)
        assert watch.running == 0
        assert watch.done == 10
        assert watch.cancelled == 5
        assert mine.telemetry.metrics is False
        assert len(await mine.batch(range(3))) == 3

    run_virtual(main())


@pytest.mark.parametrize("step", range(1, 60))
def test_batch_cancelled_at_any_step_ends_with_nothing_running(step: int, run_virtual: Run) -> None:
    started: set[int] = set()
    ended: set[int] = set()

    async def node(x: int) -> None:
        started.add(x)
        try:
            for _ in range(x % 3 + 1):
                await asyncio.sleep(0)
        finally:
            ended.add(x)

    async def main() -> None:
        task = asyncio.create_task(processor(node, 3).batch(range(30)))
        for _ in range(step):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        if finished:
            assert len(await task) == 30
        else:
            with pytest.raises(asyncio.CancelledError):
                await task
        assert started == ended

    run_virtual(main())


def test_item_over_its_time_limit_times_out_and_its_siblings_go_on(run_virtual: Run) -> None:
    results = run_virtual(processor(asyncio.sleep, 2, item_timeout=2).batch([1, 5, 1, 1.9, 7]))
    assert [r.status for r in results] == ["ok", "timed_out", "ok", "ok", "timed_out"]
    timed_out = results[1]
    assert timed_out.error_type == "TimeoutError"
    assert "item_timeout=2 s" in timed_out.error
    assert isinstance(timed_out.exception, TimeoutError)
    assert timed_out.execution_time == pytest.approx(2, abs=0.02)


def test_node_that_swallows_its_timeout_still_times_out(run_virtual: Run) -> None:
    async def hides(_: int) -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "pretended"
        return "slept"

    results = run_virtual(processor(hides, 1, item_timeout=1).batch(range(3)))
    assert [(r.status, r.output) for r in results] == [("timed_out", None)] * 3


@pytest.mark.parametrize(
    ("offset", "status"),
    [(-0.02, "ok"), (-0.001, "ok"), (0, "timed_out"), (0.001, "timed_out"), (0.02, "timed_out")],
)
def test_item_that_ends_at_its_deadline_ends_once(offset: float, status: str, run_virtual: Run) -> None:
    results = run_virtual(processor(asyncio.sleep, 3, item_timeout=1).batch([1 + offset] * 9))
    assert [(r.status, r.attempts) for r in results] == [(status, 1)] * 9


def test_batch_timeout_keeps_finished_results_and_cancels_the_rest(run_virtual: Run) -> None:
    watch = Watch(1)
    results = run_virtual(processor(watch, 2, batch_timeout=2.5).batch(range(10)))
    assert [r.status for r in results] == ["ok"] * 4 + ["cancelled"] * 6
    assert [r.attempts for r in results] == [1] * 6 + [0] * 4
    assert all("batch_timeout=2.5 s" in r.error for r in results[4:])
    assert watch.running == 0


def test_batch_timeout_cancels_only_pulled_items_of_an_endless_input(run_virtual: Run) -> None:
    results = run_virtual(processor(asyncio.sleep, 2, batch_timeout=2.5).batch(1 for _ in range(10**9)))
    assert [r.status for r in results] == ["ok"] * 4 + ["cancelled"] * 2


@pytest.mark.parametrize("retry", [None, RetryPolicy(2)])
@pytest.mark.parametrize(("last_s", "status"), [(60, "failed"), (0.1, "ok")])
def test_batch_whose_time_ends_before_its_input_is_not_ok(
    last_s: float, status: str, retry: RetryPolicy | None, run_virtual: Run
) -> None:
    async def pages() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(last_s)
        yield 1

    results = run_virtual(processor(Watch(0.5), 2, batch_timeout=2.5, retry=retry).batch(pages()))
    assert {result.status for result in results} == {"ok"}
    assert results.report.batch.status == status
    assert ("the batch ended before its input did" in results.report.text()) is (status == "failed")


def test_node_that_does_not_stop_is_abandoned_after_the_grace(run_virtual: Run) -> None:
    async def main() -> None:
        loop, stubborn = asyncio.get_running_loop(), ScriptedNode(items={0: [hangs(stubborn_for=60)]})
        results = await processor(stubborn, 1, item_timeout=1).batch(range(3))
        assert loop.time() == pytest.approx(6, abs=0.1)
        assert [r.status for r in results] == ["timed_out", "ok", "ok"]
        assert "did not stop within 5 s" in results[0].error
        task = asyncio.create_task(processor(stubborn, 1).batch([0]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() == pytest.approx(11, abs=0.1)
        await asyncio.sleep(60)

    run_virtual(main())


@pytest.mark.parametrize("fail_fast", [False, True])
def test_last_item_that_does_not_stop_delays_the_caller_by_one_grace(fail_fast: bool, run_virtual: Run) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        ends = asyncio.ensure_future(asyncio.sleep(60))

        async def stubborn(x: int) -> None:
            while not ends.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([ends])

        with pytest.raises(ItemFailedError) if fail_fast else contextlib.nullcontext():
            await processor(stubborn, 2, continue_on_error=not fail_fast, item_timeout=1).batch([0])
        assert loop.time() == pytest.approx(6, abs=0.1)
        left = [timer for timer in loop._scheduled if not timer.cancelled()]
        assert [timer.when() for timer in left] == [60]
        await ends
        await asyncio.sleep(0)

    run_virtual(main())


def test_cancelled_error_raised_by_the_node_fails_one_item(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        if x == 1:
            raise asyncio.CancelledError
        return x

    results = run_virtual(processor(node, 2).batch(range(4)))
    assert [r.status for r in results] == ["ok", "failed", "ok", "ok"]
    assert results[1].error_type == "CancelledError"
    assert results[1].error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exit_inside_a_node_propagates_out_of_the_batch(kind: type[BaseException]) -> None:
    watch = Watch(30)

    async def node(x: int) -> None:
        if x == 3:
            await asyncio.sleep(0.001)
            raise kind
        await watch(x)

    async def main() -> None:
        with pytest.raises(kind):
            await processor(node, 5).batch(range(10))
        assert watch.running == 0
        assert watch.cancelled == 4

    run_virtual(main())


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, GeneratorExit, MemoryError, TimeoutError])
def test_odd_exceptions_fail_their_item_or_propagate(kind: type[BaseException], run_virtual: Run) -> None:
    async def node(x: int) -> int:
        if x == 1:
            raise kind("odd")
        return x

    if issubclass(kind, Exception):
        results = run_virtual(processor(node, 2).batch(range(3)))
        assert [r.success for r in results] == [True, False, True]
    else:
        with pytest.raises(kind):
            run_virtual(processor(node, 2).batch(range(3)))


def test_drained_batch_finishes_items_in_flight_and_starts_none(run_virtual: Run) -> None:
    watch = Watch(1)

    async def main() -> Any:
        batch = asyncio.create_task(processor(watch, 3).batch(range(10)))
        await asyncio.sleep(1.5)
        (run,) = active_batches(asyncio.get_running_loop())
        run.drain("shutting down")
        results = await batch
        assert active_batches(asyncio.get_running_loop()) == []
        return results

    results = run_virtual(main())
    assert [r.status for r in results] == ["ok"] * 6 + ["cancelled"] * 4
    assert results[9].error == "not started: shutting down"


def test_cancelled_caller_of_a_drained_batch_leaves_every_input_ended(run_virtual: Run) -> None:
    ended: list[tuple[int, str]] = []

    class Recorder(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            ended.append((item.index, item.status))

    async def main() -> None:
        batch = asyncio.create_task(processor(Watch(10), 2, instruments=[Recorder()]).batch(range(5)))
        await asyncio.sleep(1)
        active_batches(asyncio.get_running_loop())[0].drain("shutting down")
        await asyncio.sleep(1)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch

    run_virtual(main())
    assert ended == [(index, "cancelled") for index in range(5)]


def test_drain_releases_a_worker_that_waits_for_its_source(run_virtual: Run) -> None:
    async def endless() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async def main() -> Any:
        batch = asyncio.create_task(processor(Watch(1), 3).batch(endless()))
        await asyncio.sleep(0.5)
        active_batches(asyncio.get_running_loop())[0].drain("shutting down")
        return await batch

    assert [r.status for r in run_virtual(main())] == ["ok"]


def test_batch_is_nested_while_an_item_of_an_active_batch_runs_it(run_virtual: Run) -> None:
    nested: dict[str, list[bool]] = {}

    def sample() -> None:
        for run in active_batches(asyncio.get_running_loop()):
            nested.setdefault(run.batch.name, []).append(run.nested)

    async def main() -> None:
        left: list[asyncio.Task[Any]] = []

        async def node(_: int) -> None:
            await asyncio.gather(processor(Watch(1), name="awaited by its item").batch([0]))
            left.append(asyncio.create_task(processor(Watch(2), name="left by its item").batch([0])))
            await asyncio.sleep(1)

        outer = asyncio.create_task(processor(node, name="outer").batch([0]))
        source = processor(Watch(3), name="its source").batch_as_completed([0])
        after = asyncio.create_task(processor(Watch(0.5), name="after its source").batch(source))
        for _ in range(3):
            await asyncio.sleep(0.9)
            sample()
        await asyncio.gather(outer, after, *left)

    run_virtual(main())
    assert nested == {
        "outer": [False, False],
        "awaited by its item": [True],
        "left by its item": [True, False],
        "its source": [False, False, False],
        "after its source": [False, False, False],
    }


# -- sources that fail


def failing_source(kind: type[BaseException]) -> Iterator[int]:
    yield from range(3)
    raise kind("the source broke")


async def failing_async_source(kind: type[BaseException]) -> AsyncIterator[int]:
    for i in range(3):
        yield i
    raise kind("the source broke")


@contextlib.contextmanager
def source_error(kind: type[BaseException]) -> Iterator[None]:
    """Assert that the error of a source reaches the caller, a CancelledError as the cause of another error."""
    if kind is not asyncio.CancelledError:
        with pytest.raises(kind, match="the source broke"):
            yield
        return
    with pytest.raises(RuntimeError, match="the source raised CancelledError itself") as raised:
        yield
    assert type(raised.value.__cause__) is asyncio.CancelledError
    assert str(raised.value.__cause__) == "the source broke"


@pytest.mark.parametrize("make", [failing_source, failing_async_source])
@pytest.mark.parametrize("kind", [OSError, asyncio.CancelledError])
def test_admitted_items_finish_before_the_source_error_is_raised(
    make: Callable[..., Any], kind: type[BaseException], run_virtual: Run
) -> None:
    watch = Watch(1)

    async def main() -> None:
        stream = processor(watch, 2).batch_as_completed(make(kind))
        assert [(await anext(stream)).index for _ in range(3)] == [0, 1, 2]
        with source_error(kind):
            await anext(stream)
        with source_error(kind):
            await processor(watch, 2).batch(make(kind))
        assert watch.done == 6
        assert watch.cancelled == 0

    run_virtual(main())


class QueueSource:
    """Async iterator over a queue, which raises the exceptions in it and can be read on afterwards.

    Args:
        initial: Values that are queued from the start.
    """

    def __init__(self, *initial: Any) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = False
        for x in initial:
            self.queue.put_nowait(x)

    def __aiter__(self) -> QueueSource:
        return self

    async def __anext__(self) -> Any:
        x = await self.queue.get()
        if isinstance(x, BaseException):
            raise x
        return x

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("retry", [None, RetryPolicy(2)])
@pytest.mark.parametrize("kind", [OSError, asyncio.CancelledError])
@pytest.mark.parametrize("more", [False, True])
def test_source_that_has_raised_is_not_read_again(
    more: bool, kind: type[BaseException], retry: RetryPolicy | None, run_virtual: Run
) -> None:
    watch = Watch(1)

    async def main() -> None:
        source = QueueSource(0, 1)
        for at, x in ((1.5, kind("the source broke")), *([(1.5, 2), (1.6, 3)] if more else [])):
            asyncio.get_running_loop().call_later(at, source.queue.put_nowait, x)
        with source_error(kind):
            await asyncio.wait_for(processor(watch, 3, retry=retry).batch(source), 60)
        assert watch.started == watch.done == 2
        assert source.closed or retry is not None

    run_virtual(main())


def test_source_error_is_raised_once_an_item_in_backoff_has_ended(run_virtual: Run) -> None:
    async def failing(x: int) -> None:
        raise ConnectionError

    async def main() -> None:
        source = QueueSource(0)
        asyncio.get_running_loop().call_later(0.5, source.queue.put_nowait, asyncio.CancelledError("the source broke"))
        with source_error(asyncio.CancelledError):
            await processor(failing, 1, retry=RetryPolicy(2, wait=lambda _: 1.0)).batch(source)
        assert asyncio.get_running_loop().time() == 1.0

    run_virtual(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("retry", [None, RetryPolicy(2)])
@pytest.mark.parametrize("make", [failing_source, failing_async_source])
def test_task_group_fails_if_a_source_raises_cancelled_error_itself(
    make: Callable[..., Any], retry: RetryPolicy | None, run_virtual: Run
) -> None:
    """A TaskGroup takes a bare CancelledError for the quiet end of a task that was cancelled on purpose."""

    async def stream() -> None:
        async for _ in processor(Watch(1), 2, retry=retry).batch_as_completed(make(asyncio.CancelledError)):
            pass

    async def main() -> None:
        batch = processor(Watch(1), 2, retry=retry).batch(make(asyncio.CancelledError))
        for work in (batch, stream()):
            with pytest.raises(ExceptionGroup) as raised:
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(work)
            assert not task.cancelled()
            (error,) = raised.value.exceptions
            assert isinstance(error, RuntimeError)

    run_virtual(main())


def test_source_error_of_a_map_node_keeps_the_outputs(run_virtual: Run) -> None:
    async def child(data: dict[str, Any]) -> int:
        return data["item"]

    node = MapNode("map", child, max_concurrency=1)
    context = NodeContext("map", "map", {"items": failing_async_source(asyncio.CancelledError)})
    result = run_virtual(node.execute(context, WorkflowContext()))
    assert not result.success
    assert result.output["results"] == [0, 1, 2]
    assert "the source raised CancelledError itself" in result.error


@pytest.mark.parametrize("delay_s", [0, 0.5])
@pytest.mark.parametrize("make", [failing_source, failing_async_source])
def test_caller_cancelled_after_its_source_has_raised_is_cancelled(
    make: Callable[..., Any], delay_s: float, run_virtual: Run
) -> None:
    async def main() -> None:
        task = asyncio.create_task(processor(Watch(1), 4).batch(make(asyncio.CancelledError)))
        await asyncio.sleep(delay_s)
        task.cancel("the caller")
        with pytest.raises(asyncio.CancelledError, match="the caller"):
            await task
        assert task.cancelled()

    run_virtual(main())


def test_source_that_breaks_after_a_failure_does_not_replace_its_error(run_virtual: Run) -> None:
    class BrokenList(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from self[:3]
            raise OSError("the source broke")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(1, lambda: active_batches(loop)[0].drain("shutting down"))
        with pytest.raises(ValueError, match="asked to fail"):
            await processor(Watch(2), 2).batch(BrokenList(["ok", "fail", "ok", "ok"]), continue_on_error=False)

    run_virtual(main())


def test_async_source_is_closed_when_the_batch_ends_before_it(run_virtual: Run) -> None:
    closed = []

    async def source() -> AsyncIterator[str]:
        try:
            while True:
                yield "fail"
        finally:
            await asyncio.sleep(0.1)
            closed.append(True)

    async def main() -> None:
        with pytest.raises(ValueError, match="asked to fail"):
            await processor(Watch(), 2).batch(source(), continue_on_error=False)
        assert closed == [True]

    run_virtual(main())


# -- isolation

var: contextvars.ContextVar[Any] = contextvars.ContextVar("var", default="clean")


class Incomparable:
    """Value whose comparison raises."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("cannot be compared")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("value", ["dirty", Incomparable()])
def test_context_variable_set_by_a_node_does_not_reach_the_next_item(value: Any, run: Run) -> None:
    async def node(_: int) -> Any:
        before = var.get()
        var.set(value)
        await asyncio.sleep(0)
        return before

    async def main() -> None:
        token = var.set("callers own")
        results = await processor(node, 2).batch(range(20))
        assert [r.output for r in results] == ["callers own"] * 20
        assert var.get() == "callers own"
        var.reset(token)

    run(main())


def test_node_that_mutates_its_input_mutates_its_own_copy(run: Run) -> None:
    async def node(data: dict[str, Any]) -> int:
        data["x"] = "changed"
        data["list"].append(1)
        data.pop("gone")
        return 1

    inputs = [{"x": i, "list": [{"deep": 1}], "gone": None} for i in range(3)]
    results = run(processor(node).batch(inputs))
    assert inputs == [{"x": i, "list": [{"deep": 1}], "gone": None} for i in range(3)]
    assert all(result.input_data is given for result, given in zip(results, inputs, strict=True))


def test_node_can_reenter_its_own_processor_at_concurrency_one(run: Run) -> None:
    async def node(x: int) -> int:
        return x if x == 0 else sum(r.output for r in await mine.batch([x - 1])) + 1

    mine = processor(node, 1)
    assert run(mine.batch([5]))[0].output == 5


def test_two_batches_of_one_processor_run_concurrently(run_virtual: Run) -> None:
    async def main() -> None:
        mine = processor(Watch(1), 2)
        first, second = await asyncio.gather(mine.batch("ab"[i % 2] for i in range(6)), mine.batch([1, 2, 3, 4]))
        assert [len(first), len(second)] == [6, 4]
        assert asyncio.get_running_loop().time() == pytest.approx(3)

    run_virtual(main())


# -- fairness and memory


def test_items_that_never_await_let_other_tasks_run(run: Run) -> None:
    async def busy(_: int) -> None:
        deadline = time.perf_counter() + 0.0005
        while time.perf_counter() < deadline:
            pass

    async def main() -> int:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        await processor(busy, 20).batch(range(400))  # 200 ms of work in turns of 5 ms and 20 items
        other.cancel()
        return turns

    assert run(main()) >= 8


def test_memory_does_not_grow_with_the_input(run: Run) -> None:
    async def node(x: int) -> int:
        return x

    async def main(n: int) -> int:
        tracemalloc.start()
        count = 0
        async for _ in processor(node, 50).batch_as_completed(range(n)):
            count += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == n
        return peak

    run(main(500))
    assert run(main(20_000)) < 2 * run(main(2_000)) + 100_000


def test_finished_batch_keeps_no_input_alive(run: Run) -> None:
    class Thing:
        pass

    async def main() -> weakref.ref[Thing]:
        thing = Thing()
        results = await processor(asyncio.sleep).batch([0, 0])
        stream = processor(lambda _: thing.__class__).batch_as_completed([thing])
        async for result in stream:
            assert result.success
        del results, result, stream
        return weakref.ref(thing)

    gone = run(main())
    gc.collect()
    assert gone() is None


LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@LOOPS
def test_loop_that_closes_stops_each_of_a_thousand_batches_once(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []
    stop = BatchRun.stop

    def count(run: BatchRun, reason: str, *, cancels_rest: bool = False) -> None:
        reasons.append(reason)
        stop(run, reason, cancels_rest=cancels_rest)

    async def main() -> list[asyncio.Future[Any]]:
        hanging = processor(hangs, 1)
        batches = [asyncio.ensure_future(hanging.batch([1, 2])) for _ in range(1_000)]
        await asyncio.sleep(0.1)
        return batches

    monkeypatch.setattr(BatchRun, "stop", count)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        batches = runner.run(main())
    assert all(batch.cancelled() for batch in batches)
    assert reasons.count("its event loop is closing") == 1_000


@LOOPS
def test_item_cancelled_between_two_runs_of_a_loop_stops_its_batch(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    started: list[int] = []

    async def node(x: int) -> None:
        started.append(x)
        await asyncio.sleep(60)

    async def begin(first: int) -> asyncio.Future[Any]:
        batch = asyncio.ensure_future(processor(node, 1).batch([first, first + 1]))
        await asyncio.sleep(0.01)
        return batch

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        for first in (1, 11):
            batch = runner.run(begin(first))
            (task,) = [task for task in asyncio.all_tasks(runner.get_loop()) if type(task).__name__ == "ItemTask"]
            task.cancel()
            results = runner.get_loop().run_until_complete(batch)
            assert [result.status for result in results] == ["cancelled"]
    assert started == [1, 11]


class Payload:
    """Object that an item or an input refers to."""


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Switch off the garbage collector, so that objects in reference cycles stay alive."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["hedge wins", "hedge loses", "hedge fails"])
def test_hedge_leaves_nothing_to_the_garbage_collector(how: str, run_virtual: Run) -> None:
    gone: list[weakref.ref[Payload]] = []

    async def node(x: int) -> int:
        payload = Payload()
        gone.append(weakref.ref(payload))
        is_hedge = len(gone) > 1
        if is_hedge and how == "hedge fails":
            raise ValueError("asked to fail")
        await asyncio.sleep(60 if is_hedge is (how == "hedge loses") else 3)
        return x

    async def main() -> None:
        await processor(node, 2, hedge=Hedge(after=1.0, share=1.0, minimum=1)).batch([1])
        await asyncio.sleep(0)
        assert [ref() for ref in gone] == [None, None]

    with no_collection():
        run_virtual(main())


@pytest.mark.parametrize("fails", ["at once", "later"])
def test_failed_map_node_leaves_nothing_to_the_garbage_collector(fails: str, run_virtual: Run) -> None:
    gone: list[weakref.ref[Payload]] = []

    async def child(_: Any) -> None:
        payload = Payload()
        gone.append(weakref.ref(payload))
        if fails == "later":
            await asyncio.sleep(1)
        raise ValueError("asked to fail")

    async def main() -> None:
        node = MapNode("stops", child, max_concurrency=2, continue_on_error=False)
        (result,) = await processor(node).batch([{"items": [1, 2, 3]}])
        assert not result.success
        del result
        await asyncio.sleep(0)
        assert [ref() for ref in gone if ref() is not None] == []

    with no_collection():
        run_virtual(main())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"retry": RetryPolicy(2, on=OSError)},
        {"item_timeout": 60, "batch_timeout": 60},
        {"hedge": Hedge(after=30.0)},
        {"rate_limit": RateLimit(1000), "breaker": CircuitBreaker(0.9)},
    ],
    ids=lambda settings: " and ".join(settings) or "nothing",
)
@pytest.mark.parametrize("how", ["item", "item without an exception", "source", "async source", "cancelled", "ok"])
def test_ended_batch_leaves_nothing_to_the_garbage_collector(
    how: str, settings: dict[str, Any], stream: bool, run_virtual: Run
) -> None:
    gone: list[weakref.ref[Payload]] = []

    async def node(x: int) -> Any:
        await asyncio.sleep(0.001 if x < 3 else 1)
        if x == 3 and how == "item":
            raise ValueError("asked to fail")
        if x == 3 and how == "item without an exception":
            return NodeResult(success=False, error="asked to fail")
        payload = Payload()
        gone.append(weakref.ref(payload))
        return payload

    def inputs() -> Iterator[int]:
        payload = Payload()
        gone.append(weakref.ref(payload))
        yield from range(4)
        if how == "source":
            raise ValueError("asked to fail")
        if how != "ok":
            yield from iter(range(100))

    async def awaited() -> AsyncIterator[int]:
        for x in inputs():
            if x == 4 and how == "async source":
                raise ValueError("asked to fail")
            yield x

    async def work() -> None:
        batch = processor(node, 2, continue_on_error=how == "cancelled", **settings)
        source = awaited() if how == "async source" else inputs()
        if stream:
            async with batch.batch_as_completed(source) as results:
                async for _ in results:
                    pass
        else:
            await batch.batch(source)

    async def main() -> None:
        raised = None
        task = asyncio.current_task()
        if how == "cancelled" and task is not None:
            asyncio.get_running_loop().call_later(1.5, task.cancel)
        try:
            await work()
        except (ValueError, ItemFailedError, asyncio.CancelledError) as exc:
            raised = type(exc)
        assert (raised is None) is (how == "ok")
        await asyncio.sleep(0)
        assert len(gone) > 3
        assert [ref() for ref in gone if ref() is not None] == []

    with no_collection():
        run_virtual(main())


def test_stream_cancelled_while_it_closes_leaves_no_cyclic_garbage(run_virtual: Run) -> None:
    async def main() -> None:
        stream = processor(Watch(10), 2).batch_as_completed(iter([payload := Payload(), 1, 2]))
        gone = weakref.ref(payload)
        del payload
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(1)
        closing = asyncio.ensure_future(stream.aclose())
        await asyncio.sleep(0.5)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(asyncio.CancelledError):
            await first
        del first, closing, stream
        await asyncio.sleep(0)
        assert gone() is None

    with no_collection():
        run_virtual(main())


@pytest.mark.parametrize("why", ["the node has no Python frame", "the circuit is open", "a cost function raised"])
def test_failed_result_keeps_no_other_result_alive(why: str, run: Run) -> None:
    node = operator.itemgetter(0)

    def cost(item: tuple[Payload, ...]) -> float:
        return 1.0 if item[0] else 0.0

    async def main() -> None:
        payloads = [Payload() for _ in range(8)]
        gone = [weakref.ref(payload) for payload in payloads]
        inputs = [*((payload,) for payload in payloads), (), ()]
        del payloads
        breaker = CircuitBreaker(0.1, minimum=9, open="fail") if why == "the circuit is open" else None
        limit = RateLimit(1000, cost=cost) if why == "a cost function raised" else None
        results = await processor(node, 1, breaker=breaker, rate_limit=limit).batch(inputs)
        result = results[9]
        del results, inputs
        assert result.error_type == ("IndexError" if breaker is None else "CircuitOpenError")
        assert result.exception is not None
        assert [ref() for ref in gone if ref() is not None] == []

    with no_collection():
        run(main())


@pytest.mark.parametrize("retry", [None, RetryPolicy(2, on=OSError)])
def test_input_that_is_not_exhausted_is_closed_with_its_batch(retry: RetryPolicy | None, run_virtual: Run) -> None:
    closed = []

    def inputs() -> Iterator[int]:
        try:
            yield from iter(range(100))
        finally:
            closed.append(True)

    async def main() -> None:
        results = await processor(Watch(1), 2, retry=retry, batch_timeout=1.5).batch(inputs())
        assert closed == [True]
        assert len(results) == 4

    with no_collection():
        run_virtual(main())


def test_repr_shows_the_state_of_a_run(run_virtual: Run) -> None:
    async def main() -> None:
        batch = asyncio.create_task(processor(Watch(1), 3, name="things").batch(range(10)))
        await asyncio.sleep(1.5)
        (run,) = active_batches(asyncio.get_running_loop())
        assert "'things': running, 3 of 10 done, 3 in flight" in repr(run)
        await batch

    run_virtual(main())
