"""Worker: each item runs in its own task, with its own cancellation, context and state."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import flowrt
from flowrt import BatchProcessor, FlowrtError, RetryPolicy
from flowrt.engine.item_task import ItemTask
from flowrt.model.result import ItemFailedError
from tests.conftest import LOOPS

Run = Callable[[Any], Any]

variable: ContextVar[Any] = ContextVar("variable", default=None)


def processor(node: Any, concurrency: int = 3, **options: Any) -> BatchProcessor:
    return BatchProcessor(node, concurrency, telemetry=options.pop("telemetry", False), **options)


def statuses(results: Any) -> list[str]:
    return [result.status for result in results]


async def cancel_itself(x: int) -> int:
    """Node whose task is cancelled for every third item by a stray timer, as by a library's late timeout."""
    if x % 3 == 1:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.1, task.cancel)
    await asyncio.sleep(1)
    return x


@pytest.mark.parametrize("shared", [False, True])
def test_stray_cancel_ends_its_item_alone(shared: bool, run_virtual: Run) -> None:
    results = run_virtual(processor(cancel_itself, task_per_item=not shared).batch(range(12)))
    assert statuses(results) == ["ok", "cancelled", "ok"] * 4
    assert {result.error_type for result in results if not result.success} == {"CancelledError"}
    assert all("late task.cancel()" in result.error for result in results if not result.success)
    assert all(isinstance(result.exception, asyncio.CancelledError) for result in results if not result.success)


def test_stray_cancel_is_retried_by_default(run_virtual: Run) -> None:
    tried: set[int] = set()

    async def node(x: int) -> int:
        if x in tried:
            return x
        tried.add(x)
        return await cancel_itself(x)

    results = run_virtual(processor(node, retry=2).batch(range(6)))
    assert statuses(results) == ["ok"] * 6
    assert [result.attempts for result in results] == [1, 2, 1, 1, 2, 1]


def test_cancelled_error_raised_by_the_node_is_retried_by_default(run_virtual: Run) -> None:
    tried: set[int] = set()

    async def node(x: int) -> int:
        if x not in tried:
            tried.add(x)
            raise asyncio.CancelledError
        return x

    results = run_virtual(processor(node, retry=RetryPolicy(2, on=(asyncio.CancelledError,))).batch(range(3)))
    assert [(result.status, result.attempts) for result in results] == [("ok", 2)] * 3


def test_stray_cancel_stops_a_fail_fast_batch(run_virtual: Run) -> None:
    with pytest.raises(ItemFailedError, match=r"item 1 cancelled") as caught:
        run_virtual(processor(cancel_itself, 2, continue_on_error=False).batch(range(12)))
    assert caught.value.result.index == 1


def test_cancelled_error_of_the_node_stops_a_fail_fast_batch(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(FlowrtError, match="item 0 failed"):
            await processor(node, 2, continue_on_error=False).batch(range(4))
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling(), "the caller was not cancelled"

    run_virtual(main())


@pytest.mark.parametrize("shared", [False, True])
def test_timeout_without_uncancel_leaves_one_result_per_input(shared: bool, run_virtual: Run) -> None:
    """aiohttp before 3.10.6 and async-timeout before 4.0.3 do this on Python 3.11 and newer."""

    async def node(x: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            if x % 2:
                raise TimeoutError from None
        await asyncio.sleep(0.01)
        return x

    results = run_virtual(processor(node, task_per_item=not shared).batch(range(12)))
    assert statuses(results) == ["ok", "failed"] * 6
    assert {result.error_type for result in results if not result.success} == {"TimeoutError"}


@pytest.mark.parametrize("shared", [False, True])
def test_late_cancel_leaves_one_result_per_input(shared: bool, run_virtual: Run) -> None:
    """A cancel after the item has ended reaches a finished task or, with shared tasks, the next item."""

    async def node(x: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        if x % 4 == 0:
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            await asyncio.sleep(0.01)
        return x

    results = run_virtual(processor(node, 1, task_per_item=not shared).batch(range(40)))
    assert [result.index for result in results] == list(range(40))
    assert statuses(results) == ["ok", "cancelled" if shared else "ok", "ok", "ok"] * 10


def test_cancel_of_a_finished_task_does_not_ask_for_its_coroutine(run_virtual: Run) -> None:
    """It may have none, and before Python 3.12.5 get_coro() then crashes the process."""

    class Finished(ItemTask):
        def get_coro(self) -> Any:
            assert not self.done(), "a crash on Python 3.12"
            return super().get_coro()

    async def main() -> None:
        task = Finished(asyncio.sleep(0))
        await task
        assert task.cancel() is False

    run_virtual(main())


def test_cancel_before_the_first_step_takes_effect_after_it(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(1)
        return x

    async def main() -> list[str]:
        work = asyncio.ensure_future(processor(node, 2, name="early").batch(range(12)))
        for _ in range(4):
            await asyncio.sleep(0)
            for task in asyncio.all_tasks():
                if isinstance(task, ItemTask):
                    task.cancel()
        return statuses(await work)

    found = run_virtual(main())
    assert len(found) == 12
    assert set(found) == {"ok", "cancelled"}


@pytest.mark.parametrize("loop_factory", [LOOPS["asyncio"], LOOPS["uvloop"]])
def test_asyncio_run_leaves_nothing_when_it_closes_the_loop(loop_factory: Any) -> None:
    started: list[int] = []
    ended: list[int] = []

    async def node(x: int) -> None:
        started.append(x)
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(x)

    async def main() -> None:
        asyncio.get_running_loop().create_task(processor(node, 4).batch(range(1000)))
        await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert started == [0, 1, 2, 3]
    assert sorted(ended) == started


def test_items_do_not_share_their_current_task(run_virtual: Run) -> None:
    """State keyed by `current_task()`, such as SQLAlchemy's `async_scoped_session`, is new for each item."""
    sessions: dict[int, list[int]] = {}
    tasks: list[Any] = []

    async def node(x: int) -> int:
        task = asyncio.current_task()
        tasks.append(task)  # keeps the task alive, so that its id is not reused
        session = sessions.setdefault(id(task), [])
        session.append(x)
        await asyncio.sleep(0.01)
        return len(session)

    results = run_virtual(processor(node).batch(range(20)))
    assert [result.output for result in results] == [1] * 20


@pytest.mark.parametrize("shared", [False, True])
def test_cancel_count_that_an_item_left_does_not_reach_the_next(shared: bool, run_virtual: Run) -> None:
    async def node(x: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        if x % 2:
            raise asyncio.CancelledError
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            return x
        return -1

    results = run_virtual(processor(node, 1, task_per_item=not shared).batch(range(8)))
    assert statuses(results) == ["ok", "failed"] * 4


class Equal:
    """Value that equals any other, so that comparing contexts would find no change."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


@pytest.mark.parametrize("value", [Equal(), float("nan"), [], 1])
def test_context_variable_does_not_reach_the_next_item(value: Any, run_virtual: Run) -> None:
    seen: list[Any] = []

    async def node(x: int) -> None:
        seen.append(variable.get())
        variable.set(value)
        await asyncio.sleep(0.01)

    run_virtual(processor(node, 2).batch(range(10)))
    assert seen == [None] * 10


def test_shared_tasks_run_the_items_of_a_slot_in_one_task(run_virtual: Run) -> None:
    tasks: set[Any] = set()

    async def node(x: int) -> None:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0.01)

    run_virtual(processor(node, 3, task_per_item=False).batch(range(30)))
    assert len(tasks) == 3


@pytest.mark.parametrize("factory", ["loop and coroutine", "eager"])
def test_batch_runs_with_any_task_factory_of_the_loop(factory: str, run_virtual: Run) -> None:
    if factory == "eager" and sys.version_info < (3, 12):
        pytest.skip("eager tasks need Python 3.12")

    async def inputs() -> Any:
        for x in range(10):
            yield x

    async def node(x: int) -> int:
        await asyncio.sleep(0.01 * (x % 3))
        return x

    def legacy(loop: asyncio.AbstractEventLoop, coro: Any) -> Any:
        return asyncio.Task(coro, loop=loop)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_task_factory(legacy if factory != "eager" else getattr(asyncio, "eager_task_factory"))  # noqa: B009
        assert (await processor(node, batch_timeout=60, retry=2).batch(range(10))).outputs == list(range(10))
        assert (await processor(node).batch(inputs())).outputs == list(range(10))
        async with processor(node).batch_as_completed(inputs()) as stream:
            async for _ in stream:
                break
        loop.set_task_factory(None)

    run_virtual(main())


def test_error_of_an_executor_s_session_fails_the_batch(run_virtual: Run) -> None:
    """An error outside any attempt fails the batch instead of hanging it."""

    class Session:
        async def invoke(self, node_context: Any, workflow_context: Any) -> Any:
            raise ValueError("the item's own")

        def abandon_one(self) -> None:
            pass

        def close(self) -> None:
            raise OSError("the pool is broken")

    class Executor:
        def open(self, node: Any, slots: int) -> Session:
            return Session()

    async def node(x: int) -> int:
        return x

    with pytest.raises(OSError, match="the pool is broken"):
        run_virtual(processor(node, executor=Executor()).batch(range(4)))


CALLS_PER_ITEM = {"shared": 6, "own task": 6}


@pytest.mark.parametrize("kind", CALLS_PER_ITEM)
def test_item_costs_few_python_calls(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profiler's hook counts calls for an async function that returns at once, with telemetry off."""
    for module in ("turn", "worker"):  # on a busy machine, 5 ms may pass, and the loop's turn costs calls
        monkeypatch.setattr(f"flowrt.engine.{module}.LONGEST_NS", 60 * 10**9)

    async def node(x: int) -> int:
        return x

    package = str(Path(flowrt.__file__).parent)

    async def main(count: int) -> int:
        batch = processor(node, 1, task_per_item=kind == "own task")
        calls = 0

        def profile(frame: Any, event: str, arg: Any) -> None:
            nonlocal calls
            calls += event == "call" and frame.f_code.co_filename.startswith(package)

        sys.setprofile(profile)
        try:
            await batch.batch(range(count))
        finally:
            sys.setprofile(None)
        return calls

    few, many = asyncio.run(main(10)), asyncio.run(main(110))
    assert (many - few) / 100 <= CALLS_PER_ITEM[kind]


@pytest.mark.parametrize("shared", [False, True])
def test_cancel_between_two_items_changes_nothing(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose items never wait yields to the loop now and then; a stray cancellation may come just there."""
    monkeypatch.setattr("flowrt.engine.worker.LONGEST_NS", 0)

    async def node(x: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        return x

    async def main() -> Any:
        return await processor(node, 1, task_per_item=not shared).batch(range(20))

    assert statuses(asyncio.run(main())) == ["ok"] * 20
