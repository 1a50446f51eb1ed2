"""Runner: runs attempts in a worker, coroutines side by side on a loop, plain functions one after another."""

from __future__ import annotations

import asyncio
import functools
import importlib
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, MutableSequence, Sequence
from typing import Any, Final

from flowrt._util.clock import clock_of
from flowrt.executors.encoding import encode
from flowrt.executors.frames import Frame, Kind, Status, make_frame
from flowrt.executors.outcome_memory import OutcomeMemory
from flowrt.executors.pickling import PicklingError
from flowrt.executors.remote_errors import pack_exception
from flowrt.executors.threads import blocking_call
from flowrt.model.node import BaseNode, FunctionNode, NodeContext, NodeResult, WorkflowContext, contained
from flowrt.remote.outbox import Outbox

__all__ = ["Runner"]

_FLUSH_S: Final = 0.01  # outcomes of plain functions wait this long while the next ones run


class _Session:
    """Node of a batch, loaded in this worker."""

    def __init__(self, opening: tuple[bytes, bool, dict[str, Any], bytes | None]) -> None:
        data, self.blocking, telemetry, workflow = opening
        if telemetry:
            _telemetry().set_up(telemetry)
        self.error: BaseException | None = None
        self.call: Callable[[NodeContext, WorkflowContext], Any]
        self.function: Callable[[Any], Any] | None
        self.node: BaseNode
        try:
            self.node = pickle.loads(data)  # noqa: S301  # from the driver
            self.workflow = WorkflowContext()
            if workflow is not None:
                self.workflow.workflow_id, self.workflow.global_variables = pickle.loads(workflow)  # noqa: S301
        except BaseException as exc:
            self.error = RuntimeError(f"the node cannot be loaded in a worker ({type(exc).__name__}: {exc})")
            self.error.__cause__ = exc
        else:
            node = self.node
            self.call = blocking_call(node) or node.execute
            direct = type(node).execute is FunctionNode.execute and isinstance(node, FunctionNode)
            self.function = node.fn if direct else None  # type: ignore[attr-defined]


class _Attempt:
    """One attempt in this worker."""

    __slots__ = ("attempt", "context", "data", "index", "number", "received_ns", "session")

    def __init__(
        self, session: _Session, number: int, index: int, attempt: int, context: Any, data: Any, received_ns: int
    ) -> None:
        self.session = session
        self.number = number
        self.index = index
        self.attempt = attempt
        self.context = context
        self.data = data
        self.received_ns = received_ns

    def node_context(self) -> NodeContext:
        node = self.session.node
        return NodeContext(node.node_id, node.node_type, self.data, index=self.index, attempt=self.attempt)


class Runner:
    """Runs the attempts that the driver sends, and sends the outcomes back.

    `receive` and coroutines run on the loop's thread; `serve` runs plain functions in the calling thread, and `step`
    runs one of them.

    Args:
        loop: The loop for coroutines.
        send: Sends a message; any thread may call it.
        memory: Shared memory for the number of the running plain-function item, so that a crash can be attributed.
        stopped: Called on the loop's thread when the driver asks the worker to end.

    Attributes:
        outbox: The outcomes that have not been sent.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[Sequence[Any]], None],
        memory: OutcomeMemory | None = None,
        stopped: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._clock = clock_of(loop)
        self._send = send
        self._running: MutableSequence[int] | memoryview[int] = [0] if memory is None else memory.running
        self._stopped = stopped
        self._sessions: dict[int, _Session] = {}
        self._inbox: deque[_Attempt] = deque()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.outbox = Outbox(send, memory)
        self._cancelled: dict[int, bool] = {}  # number of a plain-function item: whether the driver has been answered
        self._flushing = False
        self._ticking = False
        self._ending = False

    @property
    def active(self) -> int:
        """Approximate number of attempts without an outcome; an attempt that is just ending may be missed."""
        return len(self._tasks) + len(self._inbox) + bool(self._running[0]) + len(self.outbox)

    # -- on the loop's thread ------------------------------------------------------------------------------------------

    def receive(self, parts: Sequence[Any]) -> None:
        """Take one message."""
        frame = Frame.of(parts)
        kind, *columns = frame.envelope
        if kind == Kind.ITEMS:
            self._take(frame, *columns)
        elif kind == Kind.OPEN:
            self._sessions[columns[0]] = _Session(frame.load())
            self._send(make_frame((Kind.OPENED, columns[0])))
        elif kind == Kind.CANCEL:
            for number in columns[0]:
                self._cancel(number)
        elif kind == Kind.RECALL:
            self._give_back(columns[0])
        elif kind == Kind.CLOSE:
            self._sessions.pop(columns[0], None)
            if "flowrt.remote.telemetry" in sys.modules:
                _telemetry().flush()
        elif kind == Kind.STOP:
            self._ending = True
            self._stopped()
            if self._wake.locked():
                self._wake.release()

    def _take(
        self,
        frame: Frame,
        session_number: int,
        first: int,
        indices: Sequence[int],
        attempts: Sequence[int],
        contexts: Sequence[Any] | None,
    ) -> None:
        now = self._clock()
        numbers = range(first, first + len(indices))
        try:
            values = frame.load()
        except BaseException as exc:
            if len(numbers) > 1:  # the driver sends each by itself, so that the neighbours go on
                self._send(make_frame((Kind.UNREADABLE, numbers)))
            else:
                error = PicklingError(f"the input cannot be loaded in a worker ({type(exc).__name__}: {exc})")
                error.__cause__ = exc
                self._post(numbers[0], Status.RAISED, 0, 0, pack_exception(error, 0))
            return
        session = self._sessions[session_number]
        if session.error is not None:
            packed = pack_exception(session.error, 0)
            for number in numbers:
                self._post(number, Status.RAISED, 0, 0, packed)
            return
        taken = [
            _Attempt(session, number, index, attempt, context, value, now)
            for number, index, attempt, context, value in zip(
                numbers, indices, attempts, contexts or [None] * len(numbers), values, strict=True
            )
        ]
        if not session.blocking:
            for each in taken:
                task = self._loop.create_task(self._run_coroutine(each))
                self._tasks[each.number] = task
            return
        self._inbox.extend(taken)
        if self._wake.locked():
            self._wake.release()
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(_FLUSH_S, self._tick)

    async def _run_coroutine(self, each: _Attempt) -> None:
        session, started_ns = each.session, self._clock()
        if each.context is not None:
            _telemetry().attach(each.context)  # the context is that of this task
        value: Any
        try:
            try:
                if session.function is not None:
                    result = await session.function(each.data)
                    if not isinstance(result, NodeResult):
                        result = NodeResult(True, result)
                else:
                    result = await session.node.execute(each.node_context(), session.workflow)
                status, value = encode(session.node.node_id, result)
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    status, value = Status.CANCELLED, None
                else:
                    status, value = Status.RAISED, pack_exception(exc)
            except BaseException as exc:  # raised again at the driver
                status, value = Status.RAISED, pack_exception(exc)
        finally:
            self._tasks.pop(each.number, None)
        self._post(each.number, status, self._clock() - started_ns, started_ns - each.received_ns, value)

    def _cancel(self, number: int) -> None:
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()
            return
        if not any(each.number == number for each in self._inbox.copy()):
            return  # it runs, or has ended
        self._cancelled[number] = False
        if self._running[0] != number:  # otherwise it has begun meanwhile
            self._cancelled[number] = True
            self._post(number, Status.CANCELLED, 0, 0, None)

    def _give_back(self, count: int) -> None:
        numbers: list[int] = []
        while len(numbers) < count:
            try:
                each = self._inbox.pop()
            except IndexError:
                break
            if not self._cancelled.pop(each.number, False):
                numbers.append(each.number)
        if numbers:
            self._send(make_frame((Kind.RETURNED, numbers[::-1])))

    def _post(self, number: int, status: int, service_ns: int, inbox_ns: int, value: Any) -> None:
        """Add an outcome, and send it at the end of this turn of the loop with the turn's other outcomes."""
        self.outbox.add(number, status, service_ns, inbox_ns, value)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self.outbox.flush()

    def _tick(self) -> None:
        """Send outcomes while plain functions run, so that no outcome waits for a long later item."""
        self.outbox.flush()
        self._ticking = bool(self._inbox) or bool(self._running[0])
        if self._ticking:
            self._loop.call_later(_FLUSH_S, self._tick)

    # -- plain functions, in a thread of their own ---------------------------------------------------------------------

    def serve(self) -> None:
        """Run plain functions as they arrive, until the driver asks the worker to end."""
        while not self._ending:
            if not self.step():
                self.outbox.flush()
                self._wake.acquire()

    def step(self) -> bool:
        """Run the next plain function; returns False if none waits."""
        try:
            each = self._inbox.popleft()
        except IndexError:
            return False
        number, session = each.number, each.session
        self._running[0] = number
        if self._cancelled:
            answered = self._cancelled.pop(number, None)
            if answered is not None:
                self._running[0] = 0
                if not answered:
                    self.outbox.add_plain(number, Status.CANCELLED, 0, 0, None)
                return True
        started_ns = self._clock()
        token = None if each.context is None else _telemetry().attach(each.context)
        value: Any
        try:
            if session.function is not None:
                result = session.function(each.data)
                if hasattr(result, "__await__"):
                    self._await(each, result, started_ns)
                    return True
                if not isinstance(result, NodeResult):
                    result = NodeResult(True, result)
            else:
                result = contained(session.call, each.node_context(), session.workflow)
                if hasattr(result, "__await__"):
                    self._await(each, result, started_ns)
                    return True
            status, value = encode(session.node.node_id, result)
        except StopIteration as exc:  # converted as in a coroutine
            error = RuntimeError("the node raised StopIteration")
            error.__cause__ = exc
            status, value = Status.RAISED, pack_exception(error, 0)
        except BaseException as exc:  # raised again at the driver
            status, value = Status.RAISED, pack_exception(exc)
        finally:
            if token is not None:
                _telemetry().detach(token)
        self.outbox.add_plain(number, status, self._clock() - started_ns, started_ns - each.received_ns, value)
        self._running[0] = 0
        return True

    def _await(self, each: _Attempt, awaitable: Any, started_ns: int) -> None:
        """Await an awaitable that a plain function returned, on the loop."""

        async def wait() -> None:
            value: Any
            if each.context is not None:
                _telemetry().attach(each.context)
            try:
                result = await awaitable
                if each.session.function is not None and not isinstance(result, NodeResult):
                    result = NodeResult(True, result)
                status, value = encode(each.session.node.node_id, result)
            except BaseException as exc:  # raised again at the driver
                status, value = Status.RAISED, pack_exception(exc)
            self._post(each.number, status, self._clock() - started_ns, started_ns - each.received_ns, value)

        self._running[0] = 0

        def start() -> None:
            self._tasks[each.number] = task = self._loop.create_task(wait())
            task.add_done_callback(lambda _: self._tasks.pop(each.number, None))

        self._loop.call_soon_threadsafe(start)


@functools.cache
def _telemetry() -> Any:
    """Return the module of a worker's telemetry, which loads OpenTelemetry."""
    return importlib.import_module("flowrt.remote.telemetry")
