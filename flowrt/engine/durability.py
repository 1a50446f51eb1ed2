"""Between the end of an item's last attempt and its result: the journal keeps it before anybody sees it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from flowrt.errors import JournalDiskError, JournalError, JournalMismatchError
from flowrt.journal import KEPT, Journal, JournalPolicy
from flowrt.model import BatchResult, ItemRecord, Slot
from flowrt.model.node import BaseNode

__all__ = ["JournalSink", "open_in_thread"]

T = TypeVar("T")


class _Pending:
    """An item whose record is on its way to the disk."""

    __slots__ = ("outcome", "waiter")

    def __init__(self, waiter: asyncio.Future[None]) -> None:
        self.waiter = waiter
        self.outcome: JournalError | bool = False  # True once it is on the disk

    def tell(self, outcome: JournalError | bool) -> None:
        self.outcome = outcome
        if not self.waiter.done():
            self.waiter.set_result(None)


class JournalSink:
    """One batch's use of a journal.

    Args:
        journal: Open, and not started.
        loop: The running loop.
        threaded: False writes on the loop, where its time is virtual.
        close: Whether the journal is to be closed at the batch's end: whoever opened it closes it.
    """

    __slots__ = ("_close", "_journal", "_loop", "_threaded")

    def __init__(self, journal: Journal, loop: asyncio.AbstractEventLoop, *, threaded: bool, close: bool) -> None:
        self._journal = journal
        self._loop = loop
        self._threaded = threaded
        self._close = close

    def start(self) -> None:
        """Get ready to take items."""
        call = self._loop.call_soon_threadsafe if self._threaded else self._loop.call_soon
        self._journal.start(call, _durable, _lost, threaded=self._threaded)

    def restore(self, item: ItemRecord) -> BatchResult | None:
        """How an earlier run finished the item, or None where it has to run.

        Raises:
            JournalMismatchError: The item had another input then.
            JournalDamagedError: The journal was damaged since it was opened.
            JournalDiskError: The journal cannot be read.
        """
        return self._journal.restore(item.index, item.input_data)

    def check_length(self, count: int) -> None:
        """Refuse an input that is shorter than the one that the journal is of.

        Args:
            count: How many items the input holds.

        Raises:
            JournalMismatchError: The journal holds items beyond it.
        """
        last = self._journal.last_index
        if last >= count:
            raise JournalMismatchError(
                f"journal {self._journal.path} belongs to another run: it holds item {last} and the input ends after "
                f"{count}; run it with the same input, or name another journal"
            )

    def wants(self, item: ItemRecord) -> bool:
        """Whether the item has finished, so that no later run is to run it: what had no attempt cost nothing."""
        if item.status == "ok":
            return True
        if item.status not in KEPT or not item.attempts:
            return False
        error = item.exception
        return error is None or isinstance(error, (Exception, asyncio.CancelledError))

    async def keep(self, item: ItemRecord, slot: Slot, on_cancel: Callable[[], None]) -> JournalError | None:
        """Return once the item is on the disk, or with the reason why it may not be.

        Being cancelled changes nothing, as the disk does not hear of it, unless the slot was given up.

        Args:
            item: It has finished.
            slot: Where it ran.
            on_cancel: Told each time that the caller was cancelled.
        """
        pending = _Pending(self._loop.create_future())
        try:
            self._journal.append(item, pending)
        except JournalError as exc:
            return exc
        while not pending.outcome:
            try:
                await pending.waiter
            except asyncio.CancelledError:
                if slot.abandoned:
                    raise
                on_cancel()
                pending.waiter = self._loop.create_future()
        return None if pending.outcome is True else pending.outcome

    def close(self, closed: Callable[[JournalError | None], None]) -> None:
        """Let go of the journal, if it is the batch's own. Nothing can cancel that; the disk has 5 s to answer.

        Args:
            closed: Called on the loop, at once or later, with what could not be written.
        """
        if not self._close:
            closed(None)
        elif self._threaded:
            _in_thread(self._loop, self._journal.close).add_done_callback(lambda closing: closed(_error_of(closing)))
        else:
            try:
                self._journal.close()
            except JournalError as exc:
                closed(exc)
            else:
                closed(None)

    async def aclose(self) -> None:
        """Let go of a journal that was not used; waits for it also when cancelled."""
        done = self._loop.create_future()
        self.close(done.set_result)
        while not done.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([done])


def _error_of(closing: asyncio.Future[None]) -> JournalError | None:
    try:
        closing.result()
    except JournalError as exc:
        return exc
    return None


async def open_in_thread(loop: asyncio.AbstractEventLoop, policy: JournalPolicy, node: BaseNode) -> Journal:
    """Open a journal while the loop goes on: one of a million items takes about 2 s to read.

    Args:
        loop: The running loop.
        policy: Which journal.
        node: What runs.

    Raises:
        JournalError: It cannot be used.
        ValueError: Its path or its fingerprint can be none.
    """
    opening = _in_thread(loop, lambda: policy.open(node))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_let_go)
        raise


def _let_go(opening: asyncio.Future[Journal]) -> None:
    """Nobody is there any more to use it."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()


def _in_thread(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> asyncio.Future[T]:
    """What a function gives that waits for a disk, from a thread of its own that ends with the answer."""
    answer: asyncio.Future[T] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def work() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = function()
        except BaseException as exc:  # raised again where it is awaited
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=work, name="flowrt-journal-file", daemon=True).start()
    return answer


def _durable(group: list[_Pending]) -> None:
    for pending in group:
        pending.tell(True)


def _lost(error: JournalDiskError, group: list[_Pending]) -> None:
    for pending in group:
        pending.tell(error)
