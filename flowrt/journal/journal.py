"""Journal: what survives a run that is killed, and gives the next run what is done already."""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from flowrt._version import __version__
from flowrt.errors import JournalDiskError, JournalMismatchError
from flowrt.journal.file import JournalFile
from flowrt.journal.fingerprint import digest_of_item
from flowrt.journal.format import NO_DIGEST, STATUS_CODES, Header, decode_record, encode_record
from flowrt.journal.index import Table
from flowrt.journal.os_calls import Disk
from flowrt.journal.writer import CLOSE_S, Call, GroupWriter
from flowrt.model import BatchResult

__all__ = ["KEPT", "Journal", "result_of_line"]

KEPT: Final = frozenset(status.decode("ascii") for status in STATUS_CODES)
"""The statuses of items that are journaled: what was cancelled has not finished and runs again."""

_log = logging.getLogger("flowrt.journal")
_open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


class Journal:
    """The finished items of one run, in a file that outlives it.

    Open it, `start` it, `append` each finished item, hand its result on when `durable` is told of it, and `close`. A
    later run that opens the same file asks `restore` about each item before it runs it.

    What is kept of an item is what its line in an output file says: index, status, output, error, error_type, attempts
    and execution_time. So a restored output is what JSON makes of it (a tuple is a list, a date its ISO text), and
    metadata, exception, times in the queue and trace are not restored.

    Args:
        path: Made with mode 0600 where it does not exist; its folder has to.
        fingerprint: What makes the run the run it is, by name, as JSON values: a journal of another is refused.
        check_inputs: Keep a checksum of each item's input, and refuse to restore the item for another input. For
            inputs whose digest is not in the fingerprint.
        retry_failed: Let items that did not end ok run again.
        disk: The system's calls.

    Attributes:
        path: The file.
        created: When the journal was begun, an ISO time in UTC.
        resumed: Whether the file held a journal already.
        torn_bytes: How much of a torn tail was cut off.

    Raises:
        JournalMismatchError: The journal belongs to another run; the message names what differs.
        JournalDamagedError: The journal is damaged before its end.
        JournalDiskError: The disk is full, read-only, or failed.
        JournalInUseError: Another run has it open.
        ValueError: The path cannot be a journal's, or the fingerprint is not JSON.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: Mapping[str, Any],
        *,
        check_inputs: bool = True,
        retry_failed: bool = False,
        disk: Disk | None = None,
    ) -> None:
        self.path = Path(path)
        self._check_inputs = check_inputs
        self._retry_failed = retry_failed
        self._table = Table()
        self._writer: GroupWriter[Any] | None = None
        self._closed = False
        wanted = _as_json(fingerprint)
        self._file = JournalFile(self.path, Disk() if disk is None else disk)
        try:
            header = self._file.read(self._table)
            self.resumed = header is not None
            if header is not None:
                self._compare(header.fingerprint, wanted)
            else:
                header = Header(wanted, datetime.now(UTC).isoformat(timespec="seconds"), __version__)
            self.created = header.created
            self._file.ready(None if self.resumed else header)
        except BaseException:
            self._file.close()
            raise
        self.torn_bytes = self._file.torn_bytes
        if self.torn_bytes and self.resumed:
            _log.warning(
                "journal %s: its last %d bytes were not written whole and were cut off; the items in them run again",
                self.path,
                self.torn_bytes,
            )
        _open_journals.add(self)

    def _compare(self, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        differ = [
            f"{name} was {json.dumps(held.get(name))} and is {json.dumps(wanted.get(name))}"
            for name in sorted({*held, *wanted})
            if held.get(name) != wanted.get(name)
        ]
        if differ:
            raise JournalMismatchError(
                f"journal {self.path} belongs to another run: {'; '.join(differ)}; "
                "run it as it was, or name another journal"
            )

    # -- what is done already ------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Items that the journal held when it was opened, whatever became of them."""
        return len(self._table)

    @property
    def last_index(self) -> int:
        """The highest index that the journal held when it was opened, -1 for none: the input has to reach it."""
        return self._table.last

    def counts(self) -> dict[str, int]:
        """How many of the items that the journal held ended in which way."""
        return self._table.counts()

    def restore(self, index: int, input_data: Any) -> BatchResult | None:
        """The result of an item that an earlier run finished, or None where it has to run.

        An item that had ended ok is `resumed`; one that had not is given back as it was.

        Args:
            index: The item's place in the input.
            input_data: The input itself.

        Raises:
            JournalMismatchError: The item had another input then.
            JournalDamagedError: The journal was damaged since it was opened.
            JournalDiskError: The journal cannot be read.
        """
        entry = self._table.get(index)
        if entry is None:
            return None
        offset, status = entry
        digest, line = decode_record(self._file.line_at(offset))
        if self._check_inputs and digest not in (NO_DIGEST, digest_of_item(input_data)):
            raise JournalMismatchError(
                f"journal {self.path} belongs to another run: item {index} had another input then; "
                "run it with the same input in the same order, or name another journal"
            )
        if status == "ok":
            result = result_of_line(line, input_data)
            result.status = "resumed"
            return result
        return None if self._retry_failed else result_of_line(line, input_data)

    def line(self, index: int) -> bytes | None:
        """The line of an output file for an item that an earlier run finished, or None.

        Args:
            index: The item's place in the input.

        Raises:
            JournalDamagedError: The journal was damaged since it was opened.
            JournalDiskError: The journal cannot be read.
        """
        entry = self._table.get(index)
        return None if entry is None else decode_record(self._file.line_at(entry[0]))[1]

    # -- what is done from now on --------------------------------------------------------------------------------

    def start(
        self,
        call: Call,
        durable: Callable[[list[Any]], None],
        failed: Callable[[JournalDiskError, list[Any]], None],
        *,
        threaded: bool = True,
    ) -> None:
        """Get ready to take items.

        Args:
            call: How to call the other two from another thread: `loop.call_soon_threadsafe`.
            durable: Takes the tokens of items that are on the disk now, once per group, in the order of appending.
            failed: Takes the error and the tokens of all items that are not, once at most.
            threaded: False writes within `call`, on the loop: for tests in virtual time, where `call` is
                `loop.call_soon`.
        """
        if self._writer is not None or self._closed:
            raise RuntimeError(f"{self!r} was started before: open the file anew for another batch")
        self._writer = GroupWriter(self._file, call, durable, failed, threaded=threaded)

    def append(self, result: BatchResult, token: Any) -> None:
        """Take a finished item, without waiting; `durable` or `failed` is told of its token.

        To be called by the thread that `call` calls in.

        Args:
            result: How it ended; its status is one of `KEPT`.
            token: Whatever stands for the item.

        Raises:
            ValueError: The item has not finished: its status is not one of `KEPT`.
            JournalDiskError: The disk failed before; `failed` has been told or will be.
            JournalInUseError: The journal was closed, or this process is a child of the one that opened it.
        """
        if self._writer is None:
            raise RuntimeError(f"{self!r} takes items after start()")
        if result.status not in KEPT:
            raise ValueError(f"item {result.index} is {result.status}: only what finished is journaled")
        digest = digest_of_item(result.input_data) if self._check_inputs else NO_DIGEST
        self._writer.append(encode_record(result, digest), token)

    @property
    def pending(self) -> int:
        """Items that were appended and that neither `durable` nor `failed` has been told of."""
        return 0 if self._writer is None else self._writer.pending

    @property
    def error(self) -> JournalDiskError | None:
        """Why nothing more is written, once the disk has failed."""
        return None if self._writer is None else self._writer.error

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self, *, timeout_s: float = CLOSE_S) -> None:
        """Write what waits, and let go of the file; later calls do nothing.

        It waits for the disk: on a loop, call it in a thread, or once nothing is pending.

        Args:
            timeout_s: How long to wait for the disk, in seconds.

        Raises:
            JournalDiskError: Something that waited could not be written, or the disk did not answer in time.
        """
        self._end(abort=False, timeout_s=timeout_s)

    def abort(self, *, timeout_s: float = CLOSE_S) -> None:
        """Let go of the file and leave what waits unwritten; nobody is told of it.

        Args:
            timeout_s: How long to wait for what is being written, in seconds.

        Raises:
            JournalDiskError: The disk did not answer in time.
        """
        self._end(abort=True, timeout_s=timeout_s)

    def _end(self, *, abort: bool, timeout_s: float) -> None:
        if self._closed:
            return
        self._closed = True
        _open_journals.discard(self)
        writer = self._writer
        if writer is None:
            self._file.close()
            return
        failed_before = writer.error is not None
        if not writer.stop(abort=abort, timeout_s=timeout_s):
            raise JournalDiskError(
                f"journal {self.path}: the disk did not answer within {timeout_s:g} s; "
                "what was not told to be finished may run again"
            )
        self._file.close()
        if writer.error is not None and not failed_before and not abort:
            raise writer.error

    def _disown(self) -> None:
        """This process is a forked child: the journal is its parent's."""
        self._closed = True
        self._file.disown()
        if self._writer is not None:
            self._writer.disown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            self.close()
        except JournalDiskError:
            if kind is None:
                raise

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._writer is None else f"{self.pending} pending"
        return f"<Journal {str(self.path)!r}: {state}, {self.held} items from before>"


def result_of_line(line: bytes, input_data: Any = None) -> BatchResult:
    """The result whose line of an output file this is.

    Args:
        line: JSON.
        input_data: The item's input.
    """
    told = _load(line)
    return BatchResult(
        told["index"],
        input_data,
        success=told["success"],
        output=told["output"],
        error=told["error"],
        execution_time=told["execution_time"],
        status=told["status"],
        error_type=told["error_type"],
        attempts=told["attempts"],
    )


def _load(line: bytes) -> Any:
    try:
        return json.loads(line)
    except RecursionError:  # nested almost as deep as the stack was when it was written: take an empty stack
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(json.loads(line)), name="flowrt-journal-decoder")
        thread.start()
        thread.join()
        return found[0]


def _as_json(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint as it will be read again."""
    try:
        told: dict[str, Any] = json.loads(json.dumps(dict(fingerprint), allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise ValueError(f"a journal's fingerprint must be of JSON values, not {fingerprint!r}: {exc}") from exc
    return told


def _disown_all() -> None:
    for journal in list(_open_journals):
        journal._disown()  # noqa: SLF001  # its own module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
