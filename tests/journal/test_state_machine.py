"""Journal as a state machine: durable items are restored unchanged and once, after any sequence of faults."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowrt.errors import JournalDiskError
from flowrt.journal import Journal, export, summary
from flowrt.model import BatchResult
from tests.examples import examples
from tests.journal.harness import FINGERPRINT, FULL, FakeLoop, FaultyDisk, failure, item

INDICES = st.integers(0, 15)
BLOCK = 64  # a small page


class PowerCutError(BaseException):
    """The simulated end of the process."""


class CutDisk(FaultyDisk):
    """Disk that loses power in the middle of a write, or between a write and its sync; knows what was synced."""

    def __init__(self, synced_bytes: int) -> None:
        super().__init__()
        self.synced_bytes = self.end = synced_bytes
        self.cut_in = ""

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        if self.cut_in == "write":
            data = data[: len(data) // 2]
        written = super().write(fd, data, offset)
        self.end = offset + written
        if self.cut_in == "write":
            raise PowerCutError
        return written

    def sync(self, fd: int) -> None:
        if self.cut_in == "sync":
            raise PowerCutError
        self._pass("sync")
        self.synced_bytes = self.end

    def reserve(self, fd: int, offset: int, size_bytes: int) -> None:
        """Succeed."""

    def truncate(self, fd: int, size_bytes: int) -> None:
        super().truncate(fd, size_bytes)
        self.end = size_bytes
        self.synced_bytes = min(self.synced_bytes, size_bytes)


class JournalMachine(RuleBasedStateMachine):
    """A run that appends items, receives reports, crashes, loses pages, and resumes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "run.journal"
        self.reported: dict[int, BatchResult] = {}  # reported as durable, or restored
        self.uncertain: dict[int, list[BatchResult]] = {}  # may be in the file or not
        self.journal: Journal | None = None
        self.disk = CutDisk(0)
        self.version = 0

    @precondition(lambda self: self.journal is None)
    @rule()
    def open(self) -> None:
        self.disk = CutDisk(self.disk.synced_bytes)
        self.loop = FakeLoop()
        self.journal = Journal(self.path, FINGERPRINT, disk=self.disk)
        for index in range(16):
            found = self.journal.restore(index, {"x": index})
            if index not in self.reported and index not in self.uncertain:
                assert found is None
                continue
            allowed = list(self.uncertain.get(index, []))
            if index in self.reported:
                allowed.append(self.reported[index])
                assert found is not None, f"{index} was reported as durable and is lost"
            if found is not None:
                assert _as_line(found) in [_as_line(result) for result in allowed]
                self.reported[index] = found
        self.uncertain.clear()
        self.loop.start(self.journal, threaded=False)

    @precondition(lambda self: self.journal is not None)
    @rule(index=INDICES, ok=st.booleans(), length=st.sampled_from([0, 1, 100, 300]))
    def append(self, index: int, ok: bool, length: int) -> None:
        assert self.journal is not None
        self.version += 1
        output = f"{self.version} " + "x" * length
        result = item(index, output=output) if ok else failure(index, error=output)
        try:
            self.journal.append(result, result)
        except JournalDiskError:  # the disk failed; the loop's next step reports the lost items
            assert self.journal.error is not None
            return
        self.uncertain.setdefault(index, []).append(result)

    @precondition(lambda self: self.journal is not None)
    @rule(cut_in=st.sampled_from(["", "", "", "write", "sync"]), data=st.data())
    def step(self, cut_in: str, data: st.DataObject) -> None:
        self.disk.cut_in = cut_in
        try:
            self.loop.step()
        except PowerCutError:
            self._lose_power(data)
            return
        self.disk.cut_in = ""
        self._collect_reports()

    @precondition(lambda self: self.journal is not None)
    @rule(operation=st.sampled_from(["write", "sync"]))
    def fail(self, operation: str) -> None:
        self.disk.failures = {operation: (self.disk.calls.count(operation) + 1, FULL)}

    @precondition(lambda self: self.journal is not None)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self._lose_power(data)

    @precondition(lambda self: self.journal is not None)
    @rule()
    def close(self) -> None:
        assert self.journal is not None
        had_failed = self.journal.error is not None
        try:
            self.journal.close()
        except JournalDiskError:
            assert not had_failed
        while self.loop.step():
            self._collect_reports()
        assert self.journal.pending == 0
        self.journal = None

    def _collect_reports(self) -> None:
        for result in self.loop.durable:
            versions = self.uncertain[result.index]
            versions.remove(result)
            if not versions:
                del self.uncertain[result.index]
            self.reported[result.index] = result
        self.loop.durable.clear()
        for result in self.loop.lost:  # reported as failed: they must not be restored
            self.uncertain[result.index].remove(result)
            if not self.uncertain[result.index]:
                del self.uncertain[result.index]
        if self.loop.lost:
            assert self.journal is not None
            assert self.journal.error is not None
        self.loop.lost.clear()

    def teardown(self) -> None:
        if self.journal is not None:
            self.journal._file.close()
            self.journal._closed = True
        self.folder.cleanup()

    def _lose_power(self, data: st.DataObject) -> None:
        """End the process: any unsynced pages are lost, and perhaps the end of the file."""
        assert self.journal is not None
        self.journal._file.close()
        self.journal._closed = True
        self.journal = None
        content = bytearray(self.path.read_bytes())
        synced = self.disk.synced_bytes
        size = data.draw(st.integers(synced, len(content)), label="size")
        del content[size:]
        for block in range(synced // BLOCK, size // BLOCK + 1):
            if data.draw(st.booleans(), label="lost"):
                start, end = max(synced, block * BLOCK), min(size, (block + 1) * BLOCK)
                content[start:end] = bytes(max(0, end - start))
        self.path.write_bytes(content)
        self.disk.synced_bytes = min(synced, size)

    @invariant()
    def looks_whole(self) -> None:
        if self.path.exists() and self.journal is not None:
            assert summary(self.path).damaged_at is None
            indices = [json.loads(line)["index"] for line in export(self.path)]
            assert indices == sorted(set(indices))
            assert set(self.reported) <= set(indices)


def _as_line(result: BatchResult) -> tuple[Any, ...]:
    """Return the parts of a result that a journal keeps."""
    return result.success, result.output, result.error, result.attempts


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
