"""Durability: the journal keeps a finished item before its result is handed over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from flowrt._util.daemon_thread import run_in_daemon_thread
from flowrt.errors import JournalDiskError, JournalError, JournalMismatchError
from flowrt.model import BatchResult, ItemRecord

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


Kept = asyncio.Future[JournalError | None]
"""Future of an item on its way to the disk: why the item may not be there, or None once it is."""


class JournalSink:
    """One batch's use of a journal.

    Args:
        journal: Open, and not started.
        loop: The running loop.
        threaded: False writes on the loop, where its time is virtual.
        close: Close the journal at the batch's end. False where the caller opened it, and closes it.

    Attributes:
        last_index: The largest index of an item of an earlier run, or -1.
    """

    __slots__ = ("_close", "_journal", "_loop", "_successors", "_threaded", "last_index")

    def __init__(self, journal: JournalLog, loop: asyncio.AbstractEventLoop, *, threaded: bool, close: bool) -> None:
        self.last_index = journal.last_index
        self._journal = journal
        self._loop = loop
        self._threaded = threaded
        self._close = close
        self._successors: dict[Kept, Kept] = {}  # of cancelled futures

    def start(self) -> None:
        """Get ready to take items."""
        call = self._loop.call_soon_threadsafe if self._threaded else self._loop.call_soon
        report = partial(_report, self._successors)  # not a method: this sink and its journal would be a cycle
        self._journal.start(call, partial(report, None), report, threaded=self._threaded)

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
        last = self.last_index
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

    def append(self, item: ItemRecord) -> Kept:
        """Pass a finished item to the journal.

        Args:
            item: It has finished.

        Returns:
            A future for one task to wait for. A cancellation of that task cancels the future and not the write: the
            task can then wait for the future's `successor`.
        """
        kept: Kept = self._loop.create_future()
        try:
            self._journal.append(item, kept)
        except JournalError as exc:
            kept.set_result(exc)
        return kept

    def successor(self, kept: Kept) -> Kept:
        """Return the future to wait for in place of one whose task was cancelled.

        Args:
            kept: A future that `append` or this method returned.
        """
        if not kept.cancelled():  # it was done just before the task was cancelled
            return kept
        return _successor(self._successors, kept)

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


def _successor(successors: dict[Kept, Kept], kept: Kept) -> Kept:
    """Return the same future to both that ask for it, the item's task and the journal, whichever comes first."""
    if (successor := successors.pop(kept, None)) is None:
        successor = successors[kept] = kept.get_loop().create_future()
    return successor


def _report(successors: dict[Kept, Kept], outcome: JournalError | None, group: list[Kept]) -> None:
    for kept in group:
        while kept.cancelled():
            kept = _successor(successors, kept)  # noqa: PLW2901
        kept.set_result(outcome)
