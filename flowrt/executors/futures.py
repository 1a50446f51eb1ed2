"""Futures executor: runs attempts in chunks in the caller's `concurrent.futures.Executor`."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as PoolExecutor
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Final

from flowrt._util.clock import clock_of
from flowrt.executors.encoding import decode, encode
from flowrt.executors.frames import Status
from flowrt.executors.mailbox import Entry, Item
from flowrt.executors.pickling import PicklingError, dumps_alone
from flowrt.executors.remote_errors import pack_exception
from flowrt.executors.send_ahead import SendAhead
from flowrt.executors.threads import blocking_call
from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext, contained

__all__ = ["FuturesExecutor"]

_IN_THREAD: Final = -1
"""Status of an attempt that nothing had to be pickled for: its value is the result and the exception."""


class FuturesExecutor:
    """Runs attempts in an executor of `concurrent.futures`, such as a `ProcessPoolExecutor` that the caller keeps.

    Items are sent in chunks of about 20 ms, by their measured service time, and their results arrive when the whole
    chunk has ended. Such an executor has limits that `ProcessesExecutor` lacks: a function over its time limit keeps
    running (its item ends `timed_out`); if a worker crashes, all items in flight fail with the executor's error; and
    neither the current span nor the state of workers is available.

    Args:
        executor: The executor; flowrt does not shut it down.
    """

    def __init__(self, executor: PoolExecutor) -> None:
        self._executor = executor
        most: Any = getattr(executor, "_max_workers", None)
        self._workers: int = most if isinstance(most, int) else os.cpu_count() or 1

    def open(self, node: BaseNode, slots: int) -> FuturesSession:
        """Open a session.

        Raises:
            TypeError: The node cannot be pickled, and the executor's workers are not threads.
        """
        in_threads = isinstance(self._executor, ThreadPoolExecutor)
        return FuturesSession(self._executor, min(self._workers, slots), node, in_threads=in_threads)

    def __repr__(self) -> str:
        return f"FuturesExecutor({self._executor!r})"


class FuturesSession:
    """One batch's attempts in a `concurrent.futures.Executor`; see `RemoteSession` for the methods."""

    def __init__(self, executor: PoolExecutor, workers: int, node: BaseNode, *, in_threads: bool) -> None:
        self.number = 0
        self.blocking = blocking_call(node) is not None
        self.slots = workers
        self.exhausted = False
        self.opening = None
        self._executor = executor
        self._workers = workers
        self._node: Any = node if in_threads else dumps_alone(node, f"node {node.node_id!r}")
        self._workflow: Any = None
        self._in_threads = in_threads
        self._loop = asyncio.get_running_loop()
        self._clock = clock_of(self._loop)
        self._ahead = SendAhead()
        self._queue: deque[Entry] = deque()
        self._chunks = 0
        self._scheduled = False

    def begin(self, workflow: WorkflowContext) -> None:
        """Set the workflow's context; in other processes each chunk gets a copy."""
        values = workflow.workflow_id, workflow.global_variables
        self._workflow = workflow if self._in_threads else dumps_alone(values, "the workflow context")

    async def submit(self, item: Item, *, own: bool = True) -> Any:
        """Run one attempt; return the node's value or raise its exception."""
        entry = Entry(item, self, own, self._loop.create_future(), item.attempts)
        if own:
            item.started_ns = 0
        if item.batch is not None and self.blocking:
            item.batch.plain_workers = self._workers
        self._queue.append(entry)
        self._schedule()
        try:
            return await entry.future
        finally:
            if own and (entry.service_ns or not item.started_ns):
                item.started_ns = max(self._clock() - entry.service_ns, item.pulled_ns)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Submit a chunk to each worker that has none."""
        self._scheduled = False
        queue = self._queue
        while queue and self._chunks < self._workers:
            size = len(queue) if not self.blocking else min(self._ahead.window, len(queue))
            share = max(1, -(-min(size, len(queue)) // (self._workers - self._chunks)))
            chunk: list[Entry] = []
            work: list[Any] = []
            while queue and len(chunk) < share:
                entry = queue.popleft()
                if entry.future.done():  # it was cancelled
                    continue
                data = entry.item.input_data
                if not self._in_threads:
                    try:
                        data = dumps_alone(data, "the input")
                    except PicklingError as exc:
                        entry.fail(exc)
                        continue
                chunk.append(entry)
                work.append((entry.item.index, entry.attempt, data))
            if chunk:
                self._submit(chunk, work)

    def _submit(self, chunk: list[Entry], work: list[Any]) -> None:
        now = self._clock()
        try:
            future = self._executor.submit(run_chunk, self._node, self._workflow, work)
        except Exception as exc:  # it is broken, or was shut down
            for entry in chunk:
                entry.fail(exc)
            return
        self._chunks += 1
        for entry in chunk if not self.blocking else chunk[:1]:
            if entry.own:
                entry.item.started_ns = now  # of a later item of the chunk it is not known
        future.add_done_callback(partial(self._ended_in_thread, chunk))

    def _ended_in_thread(self, chunk: list[Entry], future: Future[Any]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended, chunk, future)

    def _ended(self, chunk: list[Entry], future: Future[Any]) -> None:
        self._chunks -= 1
        self._schedule()
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            for entry in chunk:
                entry.fail(error)
            return
        outcomes = future.result()
        self._ahead.record_service(len(outcomes), sum(service_ns for _, _, service_ns in outcomes))
        for entry, (status, value, service_ns) in zip(chunk, outcomes, strict=True):
            entry.service_ns = service_ns
            try:
                entry.finish(_outcome(status, value))
            except BaseException as exc:  # raised where the attempt is awaited
                entry.fail(exc)

    async def invoke(self, node_context: NodeContext, workflow_context: WorkflowContext) -> Any:
        """Run one attempt without a record, such as one of a sample before the batch."""
        self.begin(workflow_context)
        data = node_context.input_data if self._in_threads else dumps_alone(node_context.input_data, "the input")
        work = [(node_context.index or 0, node_context.attempt, data)]
        submitted = self._executor.submit(run_chunk, self._node, self._workflow, work)
        ((status, value, _),) = await asyncio.wrap_future(submitted)
        return _outcome(status, value)

    def abandon_one(self) -> None:
        """Do nothing: a running function in the executor cannot be ended."""

    def close(self) -> None:
        """Do nothing: the caller closes the executor."""


def run_chunk(node: Any, workflow: Any, work: Sequence[Any]) -> list[tuple[int, Any, int]]:
    """Run a chunk of items in a worker; return a status, a value and the service time in nanoseconds of each.

    Args:
        node: The node, pickled unless it runs in a thread of the driver.
        workflow: The workflow context, likewise.
        work: Index, attempt and input of each item, the input likewise.
    """
    if isinstance(node, bytes):
        node = _load(node)
        workflow_id, variables = pickle.loads(workflow)  # noqa: S301  # from the driver
        workflow = WorkflowContext(workflow_id, global_variables=variables)
        load: Callable[[Any], Any] = _load_input
        pack: Callable[[str, Any, BaseException | None], tuple[int, Any]] = _pack
    else:
        load, pack = _keep, _keep_both
    call = blocking_call(node)
    if call is None:
        return asyncio.run(_run_side_by_side(node, workflow, work, load, pack))
    outcomes = []
    for index, attempt, data in work:
        started_ns = time.perf_counter_ns()
        try:
            context = NodeContext(node.node_id, node.node_type, load(data), index=index, attempt=attempt)
            result = contained(call, context, workflow)
            if hasattr(result, "__await__"):
                result = asyncio.run(_await(result))
            status, value = pack(node.node_id, result, None)
        except BaseException as exc:  # raised again at the driver
            status, value = pack(node.node_id, None, exc)
        outcomes.append((status, value, time.perf_counter_ns() - started_ns))
    return outcomes


async def _run_side_by_side(
    node: Any, workflow: Any, work: Sequence[Any], load: Any, pack: Any
) -> list[tuple[int, Any, int]]:
    async def run(index: int, attempt: int, data: Any) -> tuple[int, Any, int]:
        started_ns = time.perf_counter_ns()
        try:
            context = NodeContext(node.node_id, node.node_type, load(data), index=index, attempt=attempt)
            status, value = pack(node.node_id, await node.execute(context, workflow), None)
        except BaseException as exc:  # raised again at the driver
            status, value = pack(node.node_id, None, exc)
        return status, value, time.perf_counter_ns() - started_ns

    return await asyncio.gather(*[run(*each) for each in work])


async def _await(awaitable: Any) -> NodeResult[Any]:
    result: NodeResult[Any] = await awaitable
    return result


@lru_cache(maxsize=8)
def _load(data: bytes) -> Any:
    """Load a node once in each worker."""
    return pickle.loads(data)  # noqa: S301  # from the driver


def _load_input(data: bytes) -> Any:
    try:
        return pickle.loads(data)  # noqa: S301  # from the driver
    except Exception as exc:
        raise PicklingError(f"the input cannot be loaded in a worker ({type(exc).__name__}: {exc})") from exc


def _keep(data: Any) -> Any:
    return data


def _pack(node_id: str, result: Any, error: BaseException | None) -> tuple[int, Any]:
    """Outcome of an attempt in another process."""
    return encode(node_id, result) if error is None else (Status.RAISED, pack_exception(error))


def _keep_both(node_id: str, result: Any, error: BaseException | None) -> tuple[int, Any]:  # noqa: ARG001  # as `_pack`
    """Outcome of an attempt in a thread of the driver."""
    return _IN_THREAD, (result, error)


def _outcome(status: int, value: Any) -> Any:
    if status != _IN_THREAD:
        return decode(status, value)
    result, error = value
    if error is not None:
        raise error
    return result
