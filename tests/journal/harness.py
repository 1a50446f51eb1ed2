"""Faulty disks, and a stand-in for the loop of a journal."""

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
    """Disk that fails at chosen calls and records all calls.

    Args:
        failures: For each operation that fails: the number of the call, from 1, and the errno.
        forever: True if later calls of the operation fail, too.
        short: Most bytes per write.
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
    """Disk without syncs, for tests that open thousands of files and simulate no power cut."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass

    def reserve(self, fd: int, offset: int, size_bytes: int) -> None:
        pass


class FakeLoop:
    """Stand-in for the loop: `settle` runs a journal's callbacks in the test's own thread."""

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
        """Run the next callback, if any."""
        try:
            function, args = self._calls.get_nowait()
        except queue.Empty:
            return False
        function(*args)
        return True

    def settle(self, journal: Journal) -> None:
        """Run callbacks until the journal has reported all items."""
        while journal.pending:
            function, args = self._calls.get(timeout=60)
            function(*args)


def item(index: int, **fields: Any) -> BatchResult:
    """Return the result of a finished item."""
    values: dict[str, Any] = {"success": True, "output": {"v": index}, "attempts": 1, "execution_time": 0.25}
    return BatchResult(index, {"x": index}, **{**values, **fields})


def failure(index: int, **fields: Any) -> BatchResult:
    """Return the result of a failed item."""
    values = {"success": False, "output": None, "status": "failed", "error": "no", "error_type": "ValueError"}
    return item(index, **{**values, **fields})


def write(path: Path, results: Iterable[BatchResult], *, group: int = 3, close: bool = True, **options: Any) -> None:
    """Journal results in groups of a size; without `close`, leave the file as a kill would."""
    loop = FakeLoop()
    journal = loop.start(Journal(path, FINGERPRINT, **options), threaded=False)
    for number, result in enumerate(results, 1):
        journal.append(result, result.index)
        if number % group == 0:
            loop.settle(journal)
    loop.settle(journal)
    if close:
        journal.close()
    else:
        journal._file.close()
        journal._closed = True


def restored(path: Path, indices: Iterable[int], **options: Any) -> dict[int, str]:
    """Return the status of each item that a resumed run restores, by index."""
    with Journal(path, FINGERPRINT, **options) as journal:
        found = {index: journal.restore(index, {"x": index}) for index in indices}
    return {index: result.status for index, result in found.items() if result is not None}


FULL = errno.ENOSPC
BROKEN = errno.EIO
READ_ONLY = errno.EROFS
