"""A disk that fails when told, and a way to use a journal without a loop."""

from __future__ import annotations

import errno
import os
import queue
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flowrt.journal import Journal
from flowrt.journal.os_calls import Disk
from flowrt.model import BatchResult

FINGERPRINT = {"node": "enrich", "input": "airports"}


class FaultyDisk(Disk):
    """Fails at chosen calls, and notes every call.

    Args:
        failures: The number of a call, from 1, for each operation that is to fail, and the error's number.
        forever: Whether it goes on failing from then on.
        short: Write no more than so many bytes at once.
    """

    def __init__(
        self, failures: dict[str, tuple[int, int]] | None = None, *, forever: bool = False, short: int | None = None
    ) -> None:
        self.failures = failures or {}
        self.forever = forever
        self.short = short
        self.calls: list[str] = []

    def _pass(self, operation: str) -> None:
        self.calls.append(operation)
        number, code = self.failures.get(operation, (0, 0))
        count = self.calls.count(operation)
        if number and (count == number or (self.forever and count > number)):
            raise OSError(code, os.strerror(code))

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        self._pass("write")
        return super().write(fd, data[: self.short], offset)

    def sync(self, fd: int) -> None:
        self._pass("sync")
        super().sync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        self._pass("truncate")
        super().truncate(fd, size_bytes)

    def reserve(self, fd: int, offset: int, size_bytes: int) -> None:
        self._pass("reserve")
        super().reserve(fd, offset, size_bytes)

    def sync_folder(self, folder: Path) -> None:
        self._pass("sync_folder")
        super().sync_folder(folder)


class HastyDisk(Disk):
    """Syncs nothing: for tests that open thousands of files and cut no power."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass

    def reserve(self, fd: int, offset: int, size_bytes: int) -> None:
        pass


class Teller:
    """Stands for the loop: what a journal wants called is called by `settle`, in the test's own thread."""

    def __init__(self) -> None:
        self.durable: list[Any] = []
        self.groups: list[list[Any]] = []
        self.lost: list[Any] = []
        self.errors: list[Exception] = []
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        self._calls.put((function, args))

    def start(self, journal: Journal, *, threaded: bool = True) -> Journal:
        journal.start(self.call, self._on_durable, self._on_failed, threaded=threaded)
        return journal

    def _on_durable(self, tokens: list[Any]) -> None:
        self.groups.append(tokens)
        self.durable += tokens

    def _on_failed(self, error: Exception, tokens: list[Any]) -> None:
        self.errors.append(error)
        self.lost += tokens

    def step(self) -> bool:
        """Do one thing that is asked for, if there is any."""
        try:
            function, args = self._calls.get_nowait()
        except queue.Empty:
            return False
        function(*args)
        return True

    def settle(self, journal: Journal) -> None:
        """Wait until the journal has told of everything."""
        while journal.pending:
            function, args = self._calls.get(timeout=60)
            function(*args)


def item(index: int, **fields: Any) -> BatchResult:
    """A finished item."""
    values: dict[str, Any] = {"success": True, "output": {"v": index}, "attempts": 1, "execution_time": 0.25}
    return BatchResult(index, {"x": index}, **{**values, **fields})


def failure(index: int, **fields: Any) -> BatchResult:
    """An item that failed."""
    values = {"success": False, "output": None, "status": "failed", "error": "no", "error_type": "ValueError"}
    return item(index, **{**values, **fields})


def write(path: Path, results: Iterable[BatchResult], *, group: int = 3, close: bool = True, **options: Any) -> None:
    """Journal results in groups of a size; without `close`, leave the file as a kill does."""
    teller = Teller()
    journal = teller.start(Journal(path, FINGERPRINT, **options), threaded=False)
    for number, result in enumerate(results, 1):
        journal.append(result, result.index)
        if number % group == 0:
            teller.settle(journal)
    teller.settle(journal)
    if close:
        journal.close()
    else:
        journal._file.close()
        journal._closed = True


def held(path: Path, indices: Iterable[int], **options: Any) -> dict[int, str]:
    """What a run that resumes is given: index and status."""
    with Journal(path, FINGERPRINT, **options) as journal:
        found = {index: journal.restore(index, {"x": index}) for index in indices}
    return {index: result.status for index, result in found.items() if result is not None}


FULL = errno.ENOSPC
BROKEN = errno.EIO
READ_ONLY = errno.EROFS
