"""Group commit: lines are queued without waiting, written together, and reported once they are on the disk."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

from flowrt.errors import JournalDiskError, JournalError, JournalInUseError
from flowrt.journal.file import JournalFile

__all__ = ["CLOSE_S", "Call", "GroupWriter"]

T = TypeVar("T")
Call = Callable[..., Any]
"""Schedules a function with arguments on the thread that appends: `loop.call_soon_threadsafe`."""

_log = logging.getLogger("flowrt.journal")
CLOSE_S: Final = 5.0
"""How long closing waits for the disk, in seconds."""


class GroupWriter(Generic[T]):
    """Writer thread of a journal: all lines queued when a sync returns are the next group.

    Args:
        file: The journal's file.
        call: Schedules `durable` and `failed`.
        durable: Called with the tokens of a group that is on the disk, in the order of appending.
        failed: Called at most once, with the error and the tokens of all lines that may not be on the disk.
        threaded: False to write inside `call` itself, for tests in virtual time.

    Attributes:
        error: The disk's failure, after which nothing more is written, or None.
        pending: Number of lines not passed to `durable` or `failed` yet.
    """

    def __init__(
        self,
        file: JournalFile,
        call: Call,
        durable: Callable[[list[T]], None],
        failed: Callable[[JournalDiskError, list[T]], None],
        *,
        threaded: bool = True,
    ) -> None:
        self.error: JournalDiskError | None = None
        self.pending = 0
        self._file = file
        self._call = call
        self._durable = durable
        self._failed = failed
        self._waiting: deque[tuple[bytes, T]] = deque()
        self._asleep = True
        self._stopping = False
        self._aborting = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._refusal: JournalError | None = None  # raised by append() once no more lines are accepted
        if threaded:
            self._thread = threading.Thread(target=self._run, name="flowrt-journal", daemon=True)
            self._thread.start()

    def append(self, line: bytes, token: T) -> None:
        """Queue a line; its token goes to `durable` or `failed`.

        Raises:
            JournalDiskError: The disk failed before.
            JournalInUseError: This is a forked child, or the journal was closed.
        """
        if self._refusal is not None:
            raise self._refusal
        self.pending += 1
        self._waiting.append((line, token))
        if self._asleep:
            self._asleep = False
            if self._thread is not None:
                self._bell.put(None)
            else:
                self._call(self._write_all)

    def _run(self) -> None:
        while not self._stopping:
            self._asleep = True
            if not self._waiting and not self._stopping:
                self._bell.get()
            self._asleep = False
            self._write_all()
        self._write_all()  # lines queued just before the stop
        if self.error is None and not self._aborting:
            try:
                self._file.extend(())  # proves to a later reader that every byte before it was synced
            except JournalDiskError as exc:
                _log.warning("the journal was closed without its final marker; no item is lost: %s", exc)

    def _write_all(self) -> None:
        """Write the queued lines group by group until the queue is empty."""
        waiting = self._waiting
        while waiting and self.error is None and not self._aborting:
            group = [waiting.popleft() for _ in range(len(waiting))]
            try:
                self._file.extend([line for line, _ in group])
            except JournalDiskError as exc:
                self.error = self._refusal = exc
                self._notify(self._report_failed, exc, group)
            else:
                self._notify(self._report_durable, group)
        if self._thread is None:
            self._asleep = True

    def _notify(self, report: Callable[..., None], *args: Any) -> None:
        try:
            self._call(report, *args)
        except RuntimeError:  # the loop was closed
            _log.debug("the outcome of a group of the journal was not reported: the loop was closed")

    def _report_durable(self, group: list[tuple[bytes, T]]) -> None:
        self.pending -= len(group)
        self._durable([token for _, token in group])

    def _report_failed(self, error: JournalDiskError, group: list[tuple[bytes, T]]) -> None:
        """Report the group and the queue as failed; runs on the appending thread, so that no line slips in between."""
        tokens = [token for _, token in group]
        tokens += [token for _, token in self._waiting]
        self._waiting.clear()
        self.pending -= len(tokens)
        self._failed(error, tokens)

    def stop(self, *, abort: bool = False, timeout_s: float = CLOSE_S) -> bool:
        """Write the queued lines and end the thread.

        Args:
            abort: True to drop the queued lines without a report.
            timeout_s: How long to wait for the disk, in seconds.

        Returns:
            True if the thread has ended. If the disk does not answer, the daemon thread stays, and does not keep the
            process from exiting.
        """
        self._aborting = self._aborting or abort
        self._stopping = True
        self._refusal = self._refusal or JournalInUseError("the journal was closed: open it again")
        if self._thread is None:
            self._run()
            return True
        self._bell.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def disown(self) -> None:
        """Drop the queue in a forked child, which writes nothing."""
        self._refusal = JournalInUseError(
            f"a journal is written by the process that opened it, {self._pid}, not by its child {os.getpid()}"
        )
        self._waiting.clear()
        self.pending = 0
