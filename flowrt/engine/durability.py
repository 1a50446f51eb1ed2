"""Durability: a finished item is in the journal, on the disk, before its result is delivered."""

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
"""Statuses of items that the journal takes; a later run repeats items of other statuses."""


class JournalLog(Protocol):
    """Interface of a journal for the engine; `flowrt.journal.Journal` implements it."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def last_index(self) -> int:
        """Largest index of an item in the journal, or -1 if it is empty."""

    def start(
        self,
        call: Callable[..., Any],
        kept: Callable[[list[Any]], None],
        lost: Callable[[JournalDiskError, list[Any]], None],
        *,
        threaded: bool = True,
    ) -> None:
        """Prepare for `append`. The journal reports by `call(kept, tokens)` or `call(lost, error, tokens)`."""

    def restore(self, index: int, input_data: Any) -> BatchResult | None:
        """Return the item's result of an earlier run, or None."""

    def append(self, result: BatchResult, token: Any) -> None:
        """Write a finished item. The report on it has `token`."""

    def close(self) -> None:
        """Write the pending items and close the file."""


Kept = asyncio.Future[JournalError | None]
"""Future of a write: None once the item is on the disk, or the error because of which it may not be there."""


class JournalSink:
    """One batch's use of a journal.

    Args:
        journal: An open journal that has not been started.
        loop: The running loop.
        threaded: Write in a thread. False writes on the loop, as a loop with virtual time requires.
        close: Close the journal at the batch's end. False if the caller opened it and will close it.

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
        """Prepare for `append`."""
        call = self._loop.call_soon_threadsafe if self._threaded else self._loop.call_soon
        report = partial(_report, self._successors)  # not a method, to avoid a reference cycle with the journal
        self._journal.start(call, partial(report, None), report, threaded=self._threaded)

    def restore(self, item: ItemRecord) -> BatchResult | None:
        """Return the item's result of an earlier run, or None if the item has to run.

        Raises:
            JournalMismatchError: The item had another input in the earlier run.
            JournalDamagedError: The journal was damaged since it was opened.
            JournalDiskError: The journal cannot be read.
        """
        return self._journal.restore(item.index, item.input_data)

    def check_length(self, count: int) -> None:
        """Check that the input is at least as long as the journal's.

        Args:
            count: Number of items in the input.

        Raises:
            JournalMismatchError: The journal holds items beyond the end of the input.
        """
        last = self.last_index
        if last >= count:
            raise JournalMismatchError(
                f"journal {self._journal.path} belongs to another run: it holds item {last} and the input ends after "
                f"{count}; run it with the same input, or name another journal"
            )

    def wants(self, item: ItemRecord) -> bool:
        """Return whether the journal takes the item: it ended ok, failed or timed out after at least one attempt."""
        if item.status == "ok":
            return True
        if item.status not in _KEPT or not item.attempts:
            return False
        error = item.exception
        return error is None or isinstance(error, (Exception, asyncio.CancelledError))

    def append(self, item: ItemRecord) -> Kept:
        """Pass a finished item to the journal.

        Args:
            item: A finished item.

        Returns:
            A future for one task to await. Cancelling that task cancels the future but not the write; the task can
            then await the future's `successor`.
        """
        kept: Kept = self._loop.create_future()
        try:
            self._journal.append(item, kept)
        except JournalError as exc:
            kept.set_result(exc)
        return kept

    def successor(self, kept: Kept) -> Kept:
        """Return the future to await after the task that awaited `kept` was cancelled.

        Args:
            kept: A future that `append` or this method returned.
        """
        if not kept.cancelled():  # the write ended just before the cancellation
            return kept
        return _successor(self._successors, kept)

    def close(self, closed: Callable[[JournalError | None], None]) -> None:
        """Close the journal, if the batch opened it. A close cannot be cancelled; the disk has 5 s to answer.

        Args:
            closed: Called on the loop, at once or later, with the journal's error, or None.
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
        """Close a journal that was not used, and wait until it is closed even if the caller is cancelled."""
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
    """Return one future to the item's task and to the journal's report, in whichever order they ask for it."""
    if (successor := successors.pop(kept, None)) is None:
        successor = successors[kept] = kept.get_loop().create_future()
    return successor


def _report(successors: dict[Kept, Kept], outcome: JournalError | None, group: list[Kept]) -> None:
    for kept in group:
        while kept.cancelled():
            kept = _successor(successors, kept)  # noqa: PLW2901
        kept.set_result(outcome)
