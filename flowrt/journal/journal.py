"""Journal: the finished items of a run, kept on disk so that a later run resumes after a kill."""

from __future__ import annotations

import json
import logging
import os
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from flowrt._version import __version__
from flowrt.errors import JournalDiskError, JournalMismatchError
from flowrt.journal.decoding import result_of_line
from flowrt.journal.file import JournalFile
from flowrt.journal.fingerprint import digest_of_item
from flowrt.journal.format import NO_DIGEST, STATUS_CODES, Header, decode_record, encode_record
from flowrt.journal.index import Table
from flowrt.journal.os_calls import Disk
from flowrt.journal.recovery import FOREIGN, damaged
from flowrt.journal.writer import CLOSE_S, Call, GroupWriter
from flowrt.model import BatchResult

__all__ = ["KEPT", "Journal"]

KEPT: Final = frozenset(status.decode("ascii") for status in STATUS_CODES)
"""Statuses of journaled items; a cancelled item has not finished and runs again."""

_log = logging.getLogger("flowrt.journal")
_open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


class Journal:
    """Finished items of one run, in a file that outlives the process.

    Open it, `start` it, `append` each finished item, release the item's result once `durable` receives its token, and
    `close`. A later run that opens the same file calls `restore` for each item before running it.

    A journal keeps what an item's line of an output file holds: index, status, output, error, error_type, attempts and
    execution_time. So a restored output is the JSON form of the original (a tuple becomes a list, a date its ISO text),
    and metadata, exception, queue times and trace are not restored.

    Args:
        path: The file; created with mode 0600 if missing. Its folder must exist.
        fingerprint: What identifies the run: JSON values by name. A journal with another fingerprint is refused.
        check_inputs: True to keep a checksum of each item's input, and to refuse to restore the item for another
            input; for inputs whose digest is not in the fingerprint.
        retry_failed: True to run items again that did not end ok.
        disk: The operating system's calls.

    Attributes:
        path: The file.
        created: When the journal was created, an ISO time in UTC.
        resumed: True if the file held a journal already.
        torn_bytes: Size of the torn tail that was cut off, in bytes.

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

    def _compare(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        differ = [
            f"{name} was {json.dumps(found.get(name))} and is {json.dumps(wanted.get(name))}"
            for name in sorted({*found, *wanted})
            if found.get(name) != wanted.get(name)
        ]
        if differ:
            raise JournalMismatchError(
                f"journal {self.path} belongs to another run: {'; '.join(differ)}; "
                "run it as it was, or name another journal"
            )

    # -- items of earlier runs -----------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Number of items in the journal when it was opened, of any status."""
        return len(self._table)

    @property
    def last_index(self) -> int:
        """The highest index in the journal when it was opened, -1 for none; the input must reach it."""
        return self._table.last

    def counts(self) -> dict[str, int]:
        """Return the number of items by status, as of opening."""
        return self._table.counts()

    def restore(self, index: int, input_data: Any) -> BatchResult | None:
        """Return the result of an item that an earlier run finished, or None if the item must run.

        An item that ended ok has the status `resumed`; any other result is unchanged.

        Args:
            index: The item's index in the input.
            input_data: The item's input.

        Raises:
            JournalMismatchError: The item had another input in the earlier run.
            JournalDamagedError: The journal was damaged since it was opened.
            JournalDiskError: The journal cannot be read.
        """
        entry = self._table.get(index)
        if entry is None:
            return None
        offset, status = entry
        body = self._file.line_at(offset)
        digest, line = decode_record(body)
        if self._check_inputs and digest not in (NO_DIGEST, digest_of_item(input_data)):
            raise JournalMismatchError(
                f"journal {self.path} belongs to another run: item {index} had another input then; "
                "run it with the same input in the same order, or name another journal"
            )
        if status != "ok" and self._retry_failed:
            return None
        try:
            result = result_of_line(index, status, line, input_data)
        except ValueError:
            raise damaged(self.path, offset, FOREIGN) from None
        if status == "ok":
            result.status = "resumed"
        return result

    def line(self, index: int) -> bytes | None:
        """Return the line of an output file for an item that an earlier run finished, or None.

        Args:
            index: The item's index in the input.

        Raises:
            JournalDamagedError: The journal was damaged since it was opened.
            JournalDiskError: The journal cannot be read.
        """
        entry = self._table.get(index)
        return None if entry is None else decode_record(self._file.line_at(entry[0]))[1]

    # -- items of this run ---------------------------------------------------------------------------------------

    def start(
        self,
        call: Call,
        durable: Callable[[list[Any]], None],
        failed: Callable[[JournalDiskError, list[Any]], None],
        *,
        threaded: bool = True,
    ) -> None:
        """Start the writer.

        Args:
            call: Schedules the two callbacks from the writer's thread: `loop.call_soon_threadsafe`.
            durable: Called with the tokens of items that are on the disk, once per group, in the order of appending.
            failed: Called at most once, with the error and the tokens of all items that are not on the disk.
            threaded: False to write inside `call`, on the loop: for tests in virtual time, where `call` is
                `loop.call_soon`.
        """
        if self._writer is not None or self._closed:
            raise RuntimeError(f"{self!r} was started before: open the file anew for another batch")
        self._writer = GroupWriter(self._file, call, durable, failed, threaded=threaded)

    def append(self, result: BatchResult, token: Any) -> None:
        """Queue a finished item for writing, without waiting; its token goes to `durable` or `failed`.

        Call it on the thread that `call` schedules on.

        Args:
            result: The item's result; its status is one of `KEPT`.
            token: Any object that stands for the item.

        Raises:
            ValueError: The item has not finished: its status is not one of `KEPT`.
            JournalDiskError: The disk failed before; `failed` was called or will be.
            JournalInUseError: The journal was closed, or this process is a child of the one that opened it.
        """
        if self._writer is None:
            raise RuntimeError(f"{self!r} takes items after start()")
        if result.status not in KEPT:
            raise ValueError(f"item {result.index} is {result.status}: only finished items are journaled")
        digest = digest_of_item(result.input_data) if self._check_inputs else NO_DIGEST
        self._writer.append(encode_record(result, digest), token)

    @property
    def pending(self) -> int:
        """Number of appended items that were not passed to `durable` or `failed` yet."""
        return 0 if self._writer is None else self._writer.pending

    @property
    def error(self) -> JournalDiskError | None:
        """The disk's failure, after which nothing more is written, or None."""
        return None if self._writer is None else self._writer.error

    # -- closing ---------------------------------------------------------------------------------------------------

    def close(self, *, timeout_s: float = CLOSE_S) -> None:
        """Write the queued items and close the file; later calls do nothing.

        The call blocks on the disk: from a loop, call it in a thread, or when nothing is pending.

        Args:
            timeout_s: How long to wait for the disk, in seconds.

        Raises:
            JournalDiskError: A queued item could not be written, or the disk did not answer in time.
        """
        self._end(abort=False, timeout_s=timeout_s)

    def abort(self, *, timeout_s: float = CLOSE_S) -> None:
        """Close the file without writing the queued items; no callback receives their tokens.

        Args:
            timeout_s: How long to wait for the current write, in seconds.

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
                "items without a result may run again"
            )
        self._file.close()
        if writer.error is not None and not failed_before and not abort:
            raise writer.error

    def _disown(self) -> None:
        """Close the journal in a forked child: it belongs to the parent."""
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


def _as_json(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint as a later run will read it."""
    try:
        parsed: dict[str, Any] = json.loads(json.dumps(dict(fingerprint), allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise ValueError(f"a journal's fingerprint must be of JSON values, not {fingerprint!r}: {exc}") from exc
    return parsed


def _disown_all() -> None:
    for journal in list(_open_journals):
        journal._disown()  # noqa: SLF001  # its own module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
