"""Group commit: lines are taken without waiting, written together, and told of once they are on the disk."""

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
"""Has a function called later with arguments, by the thread that appends: `loop.call_soon_threadsafe`."""

_log = logging.getLogger("flowrt.journal")
CLOSE_S: Final = 5.0
"""How long a disk may take to answer at the end, in seconds."""


class GroupWriter(Generic[T]):
    """Writes what one thread appends, in a thread of its own: whatever waits when a sync returns is the next group.

    Args:
        file: Where to.
        call: How `durable` and `failed` are to be called.
        durable: Takes the tokens of a group that is on the disk, in the order of appending.
        failed: Takes the error and the tokens of all lines that may not be on the disk; called once at most.
        threaded: False writes within `call` itself, for tests in virtual time.

    Attributes:
        error: Why nothing more is written.
        pending: Lines that neither `durable` nor `failed` has been told of.
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
        self._refusal: JournalError | None = None  # why no line is taken any more
        if threaded:
            self._thread = threading.Thread(target=self._run, name="flowrt-journal", daemon=True)
            self._thread.start()

    def append(self, line: bytes, token: T) -> None:
        """Take a line; `durable` or `failed` will be told of its token.

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
        self._write_all()  # what came just before it was told to stop
        if self.error is None and not self._aborting:
            try:
                self._file.extend(())  # shows a later reader that every byte before it was synced
            except JournalDiskError as exc:
                _log.warning("the journal was closed without its last line, which nothing depends on: %s", exc)

    def _write_all(self) -> None:
        """Write what waits, and what has come to wait by then."""
        waiting = self._waiting
        while waiting and self.error is None and not self._aborting:
            group = [waiting.popleft() for _ in range(len(waiting))]
            try:
                self._file.extend([line for line, _ in group])
            except JournalDiskError as exc:
                self.error = self._refusal = exc
                self._tell(self._tell_failed, exc, group)
            else:
                self._tell(self._tell_durable, group)
        if self._thread is None:
            self._asleep = True

    def _tell(self, told: Callable[..., None], *args: Any) -> None:
        try:
            self._call(told, *args)
        except RuntimeError:  # the loop was closed: nobody is there to be told
            _log.debug("nobody was told what became of a group of the journal")

    def _tell_durable(self, group: list[tuple[bytes, T]]) -> None:
        self.pending -= len(group)
        self._durable([token for _, token in group])

    def _tell_failed(self, error: JournalDiskError, group: list[tuple[bytes, T]]) -> None:
        """Runs where lines are appended, so that none can slip in between."""
        tokens = [token for _, token in group]
        tokens += [token for _, token in self._waiting]
        self._waiting.clear()
        self.pending -= len(tokens)
        self._failed(error, tokens)

    def stop(self, *, abort: bool = False, timeout_s: float = CLOSE_S) -> bool:
        """Write what waits and end the thread.

        Args:
            abort: Leave what waits unwritten; nobody is told of it.
            timeout_s: How long to wait for the disk, in seconds.

        Returns:
            Whether it has ended; a disk that does not answer keeps the thread, which does not keep the process.
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
        """This process is a forked child: nothing is written by it."""
        self._refusal = JournalInUseError(
            f"a journal is written by the process that opened it, {self._pid}, not by its child {os.getpid()}"
        )
        self._waiting.clear()
        self.pending = 0
