"""Sources: the lazy stream of inputs from which all workers of a batch pull.

An iterator of the user's always runs in one context and, if it is async, in one task. So a generator may set and reset
a context variable, and may hold a timeout or a task group open across its yields. A context variable that is set when
the generator yields an input is also set for that item, as for a task created inside a loop over the generator.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextvars import Context, ContextVar
from functools import partial
from itertools import islice
from operator import length_hint
from typing import Any, Final

from flowrt.attribution.wait import Wait
from flowrt.engine.item_task import make_task, retrieve_exception
from flowrt.engine.waiters import Waiters
from flowrt.model import ItemRecord

__all__ = ["EMPTY", "END", "IN_MEMORY", "LATER", "Source", "check_inputs", "length_of", "make_source"]

END: Final[Any] = object()
"""Marker that `pull` returns when the source is exhausted."""

LATER: Final[Any] = object()
"""Marker that `pull` returns while no input is ready; await `wait()`, then pull again."""

Variables = Sequence[tuple[ContextVar[Any], Any]]
"""Context variables with their values."""

IN_MEMORY: Final = (list, tuple, range, set, frozenset)
"""Types whose items are in memory, so that iterating over them runs no user code and takes no time."""


class Source:
    """Source of inputs in memory, such as a list or a range; base class of the other sources.

    Args:
        inputs: Iterated once.

    Attributes:
        awaits: True if `pull` may return LATER.
        computes: True if `pull` may run code that takes time.
        expected: Number of inputs, or None if unknown.
        known: Number of inputs if they are in memory, else `sys.maxsize`. When so many are pulled, `left` is 0 unless
            a list has grown.
        exhausted: True once the iterator has ended by itself, so that there is nothing to close.
        pull: Returns the next input, END or LATER; raises what the iterator raises.
        sets_variables: True if the iterator runs user code, which may set context variables for an item.
        variables: The context variables that were set when the last pulled input was yielded.
    """

    awaits = False
    computes = False
    sets_variables = False
    variables: Variables = ()
    known = sys.maxsize
    pull: Callable[[], Any]

    def __init__(self, inputs: Iterable[Any]) -> None:
        self.expected = length_of(inputs)
        self.known = sys.maxsize if self.expected is None else self.expected
        self.exhausted = False
        self._iterator = iter(inputs)
        self.pull = partial(next, self._iterator, END)  # a call into C: it is made for every item

    @property
    def left(self) -> int:
        """Number of inputs in memory that are not pulled; a list may grow while the batch runs."""
        return length_hint(self._iterator)

    def start(self, context: Context, wait: Wait | None) -> None:
        """Prepare for `pull`.

        Args:
            context: Context in which the iterator's code runs.
            wait: Charges the ledger for the time in which workers wait for an input; None without a ledger.
        """

    async def wait(self) -> None:
        """Wait until `pull` may return something other than LATER."""

    def stop(self) -> None:
        """Produce no further input; waiting workers get END."""

    async def aclose(self) -> None:
        """Close the iterator, if the batch ends before the source is exhausted."""

    def take_rest(self, rest: list[Any], most: int) -> None:
        """Pull many inputs at once, without waiting.

        Args:
            rest: List to which the inputs are appended.
            most: Number of inputs; fewer are appended only at the end of the source.

        Raises:
            Exception: What the iterator raises; `rest` then has the inputs before.
        """
        rest.extend(islice(self._iterator, most))

    def take_requeued(self) -> Iterable[ItemRecord]:
        """Remove and return the items of the retry queue, which will not run."""
        return ()

    def take_unpulled(self) -> Iterable[Any]:
        """Remove and return the inputs that have arrived and were not pulled."""
        return ()


class IteratorSource(Source):
    """Source of a sync iterable whose iterator runs user code, such as a generator."""

    computes = True
    sets_variables = True

    def __init__(self, inputs: Iterable[Any]) -> None:
        self.expected = length_of(inputs)
        self.exhausted = False
        self._iterator = iter(inputs)
        self._advance: Callable[[], Any] = partial(next, self._iterator, END)
        self._context = _SourceContext(Context())

    def start(self, context: Context, wait: Wait | None) -> None:  # noqa: ARG002  # nothing is waited for
        self._context = _SourceContext(context)
        self._advance = partial(context.run, self._advance)

    def pull(self) -> Any:
        data = self._advance()
        self.variables = self._context.changed()
        return data

    def take_rest(self, rest: list[Any], most: int) -> None:
        self._context.context.run(super().take_rest, rest, most)


class AsyncSource(Source):
    """Source of an async iterable, which a feeder task iterates.

    The feeder asks for an input only while a worker waits, so nothing is read ahead.

    Attributes:
        waiters: The workers that wait for an input.
    """

    awaits = True
    computes = False  # the time that an input takes is a wait
    sets_variables = True

    def __init__(self, inputs: AsyncIterable[Any]) -> None:
        self.expected = length_of(inputs)
        self.exhausted = False
        self.waiters = Waiters()
        self._aiterator: AsyncIterator[Any] = aiter(inputs)
        self._ready: deque[tuple[Any, Variables]] = deque()
        self._error: BaseException | None = None
        self._ended = False  # no further input will become ready
        self._stopped = False
        self._feeder: asyncio.Task[None] | None = None
        self._demand: asyncio.Future[None] | None = None  # the feeder sleeps here while no worker waits
        self._context = _SourceContext(Context())
        self._wait: Wait | None = None

    def start(self, context: Context, wait: Wait | None) -> None:
        self._context, self._wait = _SourceContext(context), wait

    def pull(self) -> Any:
        if self._ready:
            data, self.variables = self._ready.popleft()
            return data
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # in this frame it would be in a reference cycle with its traceback
        return END if self._ended or self._stopped else LATER

    async def wait(self) -> None:
        wait = self._wait
        if wait is not None and not wait.scheduled:
            wait.look_soon(self._is_waited_for)
        self._request()
        await self.waiters.wait()
        if wait is not None and wait.recorded and not len(self.waiters):
            wait.over()

    def _request(self) -> None:
        """Have the feeder fetch an input, for a worker that is about to join `waiters`."""
        if self._feeder is None:
            loop = asyncio.get_running_loop()
            self._feeder = make_task(loop, self._feed(), name="flowrt source", context=self._context.context)
            self._feeder.add_done_callback(retrieve_exception)
        elif self._demand is not None and not self._demand.done():
            self._demand.set_result(None)

    async def _feed(self) -> None:
        """Fetch inputs while workers wait for them, and close the iterator at the end, all in this task."""
        try:
            await self._fetch()
        except StopAsyncIteration:
            self.exhausted = True
            return
        except BaseException as exc:  # raised again by pull()
            if not self._stopped:
                own = exc.__traceback__
                self._error = exc.with_traceback(None if own is None else own.tb_next)
        finally:
            self._ended = True
            self.waiters.wake_all()
        await self._close()

    async def _fetch(self) -> None:
        while not self._stopped:
            if len(self.waiters) or await self._wait_for_demand():
                self._put(await anext(self._aiterator))
                self.waiters.wake_one()  # a woken worker leaves `waiters`, so one input is fetched for each

    def _put(self, data: Any) -> None:
        self._ready.append((data, self._context.changed()))

    async def _close(self) -> None:
        close = getattr(self._aiterator, "aclose", None)
        if close is not None:
            await close()

    async def _wait_for_demand(self) -> bool:
        """Sleep until a worker waits or the source is stopped.

        A timeout that the iterator holds open across its yields cancels this task while it sleeps here. The
        CancelledError is thrown into the iterator, where that timeout can catch it.

        Returns:
            True if an input is wanted; False if the iterator has just yielded one, or the source was stopped.
        """
        self._demand = asyncio.get_running_loop().create_future()
        try:
            await self._demand
        except asyncio.CancelledError as exc:
            throw = getattr(self._aiterator, "athrow", None)
            if self._stopped or throw is None:
                raise
            self._put(await throw(exc))
            return False
        finally:
            self._demand = None
        return not self._stopped

    def _is_waited_for(self) -> bool:
        return len(self.waiters) > 0

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        if self._demand is not None:
            if not self._demand.done():
                self._demand.set_result(None)
        elif self._feeder is not None:
            self._feeder.cancel()
        self.waiters.wake_all()

    async def aclose(self) -> None:
        self.stop()
        if self._feeder is None:
            if not self._ended:  # the iterator was never started
                self._ended = True
                await self._close()
            return
        try:
            await asyncio.wait([self._feeder])
        except asyncio.CancelledError:  # the grace period is over
            self._feeder.cancel()
            raise

    def take_unpulled(self) -> Iterable[Any]:
        left = [data for data, _ in self._ready]
        self._ready.clear()
        return left


class _SourceContext:
    """The context in which a source's code runs, and the variables that the code has set there."""

    __slots__ = ("_before", "context")

    def __init__(self, context: Context) -> None:
        self.context = context
        self._before = dict(context.items())

    def changed(self) -> Variables:
        """Return the variables whose values differ from those before the source began."""
        before = self._before
        return [pair for pair in self.context.items() if before.get(pair[0], self) is not pair[1]]


def length_of(inputs: Any) -> int | None:
    """Return the number of inputs, or None if it is unknown, including where `__len__` raises."""
    if not hasattr(type(inputs), "__len__"):
        return None
    try:
        return len(inputs)
    except Exception:  # a lazy query, a wrapped generator, a range beyond the machine's integers
        return None


def check_inputs(inputs: Any) -> None:
    """Check that inputs are an iterable of items, and not a single item that happens to be iterable.

    Raises:
        TypeError: `inputs` is not an iterable or async iterable, or is a str, bytes or mapping.
    """
    if isinstance(inputs, IN_MEMORY):
        return
    if isinstance(inputs, (str, bytes, bytearray, Mapping)):
        hint = "its .items()" if isinstance(inputs, Mapping) else "a list with it inside"
        raise TypeError(f"inputs must be an iterable of items; a {type(inputs).__name__} is one item: pass {hint}")
    if not isinstance(inputs, (Iterable, AsyncIterable)) and not hasattr(inputs, "__getitem__"):
        raise TypeError(f"inputs must be an iterable or async iterable of items, not {inputs!r}")


def make_source(inputs: Any) -> Source:
    """Make the source of any iterable or async iterable."""
    if isinstance(inputs, IN_MEMORY):
        return Source(inputs)
    return AsyncSource(inputs) if isinstance(inputs, AsyncIterable) else IteratorSource(inputs)


EMPTY: Final = Source(())
"""Source without inputs; it replaces a source in order to release that source's inputs."""
