"""Stream of results in the order in which they finish, for one consumer that sets the pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Self

from flowrt.engine.batch_run import BatchRun
from flowrt.engine.outcome import Deliver
from flowrt.model import BatchRecord, BatchResult
from flowrt.model.type_variables import In, Out

__all__ = ["ResultStream"]

_LEFT: Final = "the consumer left"
_CANCELLED: Final = (
    "this stream ended when a wait for its next result was cancelled, as asyncio.wait_for and asyncio.timeout do: the "
    "items in flight were cancelled; to wait for a limited time, keep anext(stream) in a task and use asyncio.wait"
)
_TWO_CONSUMERS: Final = "a result stream has one consumer: two tasks are waiting for its next result"


class ResultStream(AsyncIterator[BatchResult[In, Out]]):
    """Async iterator over a batch's results in the order in which they finish.

    The batch starts at the first `anext`, and admits items as fast as the consumer takes results. Leaving an
    `async for` early releases the stream, which cancels the items in flight; `async with` or `aclose()` also waits
    until they have ended.

    Args:
        start: Makes a run that delivers its results to the given function.
    """

    __slots__ = ("__weakref__", "_closed", "_outlet", "_run", "_start", "_starting")

    def __init__(self, start: Callable[[Deliver], BatchRun | Awaitable[BatchRun]]) -> None:
        self._start = start
        self._outlet = _Outlet()
        self._run: BatchRun | None = None
        self._closed = False
        self._starting = False

    @property
    def batch(self) -> BatchRecord | None:
        """The batch's record; None before the first `anext`."""
        return None if self._run is None else self._run.batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchResult[In, Out]:
        outlet, run = self._outlet, self._run
        if self._closed:
            if run is not None and run.interrupted_by is not None:
                raise RuntimeError(_CANCELLED)
            raise StopAsyncIteration
        if run is None:
            run = await self._begin()
        run.admission.consumer_came()
        while not outlet.finished:
            if run.over:
                self._closed = True
                await self._end(run)
                raise StopAsyncIteration
            if outlet.waiter is not None:
                raise RuntimeError(_TWO_CONSUMERS)
            outlet.waiter = run.loop.create_future()
            await run.changed(outlet.waiter)
            outlet.waiter = None
            if run.interrupted_by is not None:
                self._closed = True
                await self._end(run)
        run.admission.release()
        run.admission.consumer_left()
        return outlet.finished.popleft()

    async def _begin(self) -> BatchRun:
        if self._starting:
            raise RuntimeError(_TWO_CONSUMERS)
        self._starting = True
        try:
            started = self._start(self._outlet.put)
            run = self._run = started if isinstance(started, BatchRun) else await started
        finally:
            self._starting = False
        run.start()
        if self._closed:  # while the journal was being opened
            run.stop(_LEFT)
        return run

    async def _end(self, run: BatchRun) -> None:
        """Raise the cause of an early end, if there is one.

        Raises:
            Interrupted: A signal drained the batch, even if the wait for the next result was then cancelled.
            RuntimeError: The cause was a StopAsyncIteration, which would read as the end of the stream if `__anext__`
                raised it. Async generators convert it in the same way.
            Exception: The batch was ended before its input, by its time limit or from the live page.
            BaseException: What `BatchRun.join` raises.
        """
        try:
            await run.join()
        except StopAsyncIteration as exc:
            raise RuntimeError("the batch raised StopAsyncIteration") from exc
        except asyncio.CancelledError:
            if run.interruption is None:
                raise
        await run.raise_if_interrupted(self._undelivered(list(self._outlet.finished)))
        if (cut_off := run.batch.cut_off) is not None and not run.ends_quietly:
            raise self._incomplete(cut_off, run.batch)

    def _undelivered(self, results: list[BatchResult]) -> list[BatchResult]:
        """Return the results that an interrupted stream has not delivered, for `Interrupted.results`."""
        return results

    def _incomplete(self, cut_off: Exception, batch: BatchRecord) -> Exception:  # noqa: ARG002  # for subclasses
        """Return the error of a stream whose batch was ended before its input, to be raised after the last result."""
        return cut_off

    async def aclose(self) -> None:
        """Cancel the items in flight and wait until they have ended. Later calls do nothing."""
        self._closed = True
        run = self._run
        if run is None:
            return
        before = run.interrupted_by
        run.stop(_LEFT)
        while not run.over:
            await run.changed()
        self._outlet.finished.clear()
        if run.interrupted_by is not None and run.interrupted_by is not before:
            raise asyncio.CancelledError(*run.interrupted_by.args)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        run = self._run
        if run is not None and not run.over and not run.loop.is_closed():
            run.loop.call_soon_threadsafe(run.stop, _LEFT)

    def __repr__(self) -> str:
        return f"<ResultStream of {self._run or 'a batch not started'}>"


class _Outlet:
    """Queue between run and stream. The run holds no reference to the stream, which ends when it is collected."""

    __slots__ = ("finished", "waiter")

    def __init__(self) -> None:
        self.finished: deque[BatchResult] = deque()
        self.waiter: asyncio.Future[None] | None = None

    def put(self, result: BatchResult) -> None:
        self.finished.append(result)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
