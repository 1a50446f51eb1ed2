"""Durability: the journal keeps a finished item before its result is handed over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from flowrt._util.daemon_thread import run_in_daemon_thread
from flowrt.engine.item_task import clear_cancellation
from flowrt.errors import JournalDiskError, JournalError, JournalMismatchError
from flowrt.model import BatchResult, ItemRecord, Slot

__all__ = ["JournalLog", "JournalSink"]


_KEPT: Final = ("ok", "failed", "timed_out")
"""Statuses of items that have finished; a later run repeats the others."""


class JournalLog(Protocol):
    """Journal interface of the engine, which `flowrt.journal.Journal` implements."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def last_index(self) -> int:
        """The largest index of an item that it holds, or -1."""

    def start(
        self,
        call: Callable[..., Any],
        kept: Callable[[list[Any]], None],
        lost: Callable[[JournalDiskError, list[Any]], None],
        *,
        threaded: bool = True,
    ) -> None:
        """Get ready to take items; `kept` and `lost` are called by `call` with the tokens of items."""

    def restore(self, index: int, input_data: Any) -> BatchResult | None:
        """Return the item's result of an earlier run, or None."""

    def append(self, result: BatchResult, token: Any) -> None:
        """Take an item that has finished."""

    def close(self) -> None:
        """Write what is left and close the file."""


class _Pending:
    """An item whose record is on its way to the disk.

    Attributes:
        outcome: False while it is on its way, True once it is on the disk, or why it may not be there.
    """

    __slots__ = ("outcome", "waiter")

    def __init__(self, waiter: asyncio.Future[None]) -> None:
        self.waiter = waiter
        self.outcome: JournalError | bool = False

    def resolve(self, outcome: JournalError | bool) -> None:
        self.outcome = outcome
        if not self.waiter.done():
            self.waiter.set_result(None)


class JournalSink:
    """One batch's use of a journal.

    Args:
        journal: Open, and not started.
        loop: The running loop.
        threaded: False writes on the loop, where its time is virtual.
        close: Close the journal at the batch's end. False where the caller opened it, and closes it.
    """

    __slots__ = ("_close", "_journal", "_loop", "_threaded")

    def __init__(self, journal: JournalLog, loop: asyncio.AbstractEventLoop, *, threaded: bool, close: bool) -> None:
        self._journal = journal
        self._loop = loop
        self._threaded = threaded
        self._close = close

    def start(self) -> None:
        """Get ready to take items."""
        call = self._loop.call_soon_threadsafe if self._threaded else self._loop.call_soon
        self._journal.start(call, _kept, _lost, threaded=self._threaded)

    def restore(self, item: ItemRecord) -> BatchResult | None:
        """Return the item's result of an earlier run, or None if the item has to run.

        Raises:
            JournalMismatchError: The item had another input then.
            JournalDamagedError: The journal was damaged since it was opened.
            JournalDiskError: The journal cannot be read.
        """
        return self._journal.restore(item.index, item.input_data)

    def check_length(self, count: int) -> None:
        """Refuse an input that is shorter than the journal's.

        Args:
            count: Number of items in the input.

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
        """True if the item has finished for good; one without an attempt cost nothing, and a later run starts it."""
        if item.status == "ok":
            return True
        if item.status not in _KEPT or not item.attempts:
            return False
        error = item.exception
        return error is None or isinstance(error, (Exception, asyncio.CancelledError))

    async def keep(self, item: ItemRecord, slot: Slot) -> JournalError | None:
        """Wait until the item is on the disk.

        Cancellation does not interrupt the write; it ends the wait only if the slot was abandoned.

        Args:
            item: It has finished.
            slot: Where it ran.

        Returns:
            Why the item may not be on the disk, or None.
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
                clear_cancellation()
                pending.waiter = self._loop.create_future()
        return None if pending.outcome is True else pending.outcome

    def close(self, closed: Callable[[JournalError | None], None]) -> None:
        """Close the journal, if it is the batch's own. Nothing cancels that; the disk has 5 s to answer.

        Args:
            closed: Called on the loop, at once or later, with what could not be written.
        """
        if not self._close:
            closed(None)
        elif self._threaded:
            closing = run_in_daemon_thread(self._loop, self._journal.close, "flowrt-journal-file")
            closing.add_done_callback(lambda done: closed(_error_of(done)))
        else:
            try:
                self._journal.close()
            except JournalError as exc:
                closed(exc)
            else:
                closed(None)

    async def aclose(self) -> None:
        """Close a journal that was not used; waits for that also when cancelled."""
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


def _kept(group: list[_Pending]) -> None:
    for pending in group:
        pending.resolve(True)


def _lost(error: JournalDiskError, group: list[_Pending]) -> None:
    for pending in group:
        pending.resolve(error)
