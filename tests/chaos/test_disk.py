"""Disks that fail at any call, fill up, or return wrong bytes: no visible result is lost, damage is reported."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowrt import BatchProcessor, FunctionNode
from flowrt.errors import JournalDamagedError, JournalDiskError
from flowrt.journal import Journal, records
from flowrt.testing import run_virtual
from tests.chaos.harness import CONCURRENCY, FULL, WORDS, executions, finish, make_job, outcomes
from tests.chaos.test_sigkill import Expected
from tests.journal.harness import BROKEN, FINGERPRINT, FaultyDisk, HastyDisk
from tests.journal.harness import FULL as NO_SPACE

ROOT = Path(__file__).resolve().parents[2]
N, C = 24, 4
pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]


class Job:
    """Node that counts its runs, and a batch of it with a journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: Counter[int] = Counter()

    async def __call__(self, x: int) -> dict[str, int]:
        self.runs[x] += 1
        await asyncio.sleep(0.01 + x % 3 * 0.01)
        if x % 7 == 3:
            raise ValueError(f"{x} fails")
        return {"v": x}

    def run(self, disk: FaultyDisk | HastyDisk | None = None) -> list[tuple[Any, ...]]:
        async def main() -> Any:
            with Journal(self.path, FINGERPRINT, disk=disk or HastyDisk()) as journal:
                batch = BatchProcessor(FunctionNode(self, "job"), C, journal=journal, telemetry=False)
                return await batch.batch(range(N))

        results = run_virtual(main())
        return [(r.index, r.success, r.output, r.error, r.error_type, r.attempts) for r in results]


@pytest.fixture
def whole(tmp_path: Path) -> list[tuple[Any, ...]]:
    return Job(tmp_path / "whole.journal").run()


@pytest.mark.parametrize("code", [NO_SPACE, BROKEN])
@pytest.mark.parametrize("operation", ["write", "sync", "truncate", "reserve", "sync_folder"])
def test_disk_failure_at_any_call_loses_no_visible_result(
    operation: str, code: int, tmp_path: Path, whole: list[tuple[Any, ...]]
) -> None:
    failed, number = True, 0
    while failed:
        number += 1
        job = Job(tmp_path / f"{number}.journal")
        disk = FaultyDisk({operation: (number, code)})
        try:
            assert job.run(disk) == whole
            failed = False
        except JournalDiskError:
            failed = True
            if operation == "sync":
                assert disk.calls.count("sync") == number, "a sync that failed was tried again"
        seen = {result.index for result in records(job.path)} if job.path.stat().st_size else set()
        assert job.run() == whole, number
        assert all(job.runs[index] == 1 for index in seen), number
        assert job.runs.total() <= N + C, number
        if disk.calls.count(operation) < number:  # the run makes no further call
            break
    assert number > 1


def lines_of(path: Path) -> list[int]:
    """Return the start of each line of a journal, and the end of the last."""
    data = path.read_bytes()
    return [0, *(at + 1 for at, byte in enumerate(data) if byte == 10)]


def test_journal_cut_at_any_byte_loses_only_the_tail(tmp_path: Path, whole: list[tuple[Any, ...]]) -> None:
    content, begins = (tmp_path / "whole.journal").read_bytes(), lines_of(tmp_path / "whole.journal")
    first = begins[-8]  # the last records, their groups' markers and the final marker
    for cut in range(first, len(content) + 1, 1 if FULL else 7):
        job = Job(tmp_path / "cut.journal")
        job.path.write_bytes(content[:cut])
        left = {result.index for result in records(job.path)}
        assert job.run() == whole, cut
        assert set(job.runs) == set(range(N)) - left, cut
        assert len(job.runs) <= C * 3


def test_flipped_bit_is_reported_or_costs_only_the_tail(tmp_path: Path, whole: list[tuple[Any, ...]]) -> None:
    content, begins = (tmp_path / "whole.journal").read_bytes(), lines_of(tmp_path / "whole.journal")
    named = 0
    for at in range(0, len(content), 1 if FULL else 11):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        job = Job(tmp_path / "flipped.journal")
        job.path.write_bytes(damaged)
        line = max(begin for begin in begins if begin <= at)
        try:
            assert job.run() == whole, at
        except JournalDamagedError as exc:
            assert exc.offset == line, at  # noqa: PT017  # both outcomes are right; an error must name the line
            assert not job.runs
            named += 1
        else:
            assert at >= begins[-2] - 1, at  # only the last line and the line break before it may be cut off
    assert named > len(content) / (2 if FULL else 22)


SMALL_DISK = """
set -u
mount -t tmpfs -o size=3m tmpfs disk
dd if=/dev/zero of=disk/ballast bs=1k count=$1 2>/dev/null
cd disk
PYTHONPATH=$2:.. $3 -P -m flowrt run $4 2>../said
echo $? > ../first
cp run.journal ../ 2>/dev/null || true
wc -w < ran > ../executions
ls > ../there
"""


def small_disk(folder: Path, ballast_kib: int, words: list[str]) -> int:
    """Run the command on a disk of 3 MiB that is partly full, copy the journal out, and return the exit code."""
    (folder / "disk").mkdir()
    space = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-rm"]
    arguments = [str(ballast_kib), str(ROOT), sys.executable, " ".join(words)]
    done = subprocess.run(
        [*space, "sh", "-c", SMALL_DISK, "sh", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if not (folder / "first").exists():
        if os.environ.get("CI") != "true":
            pytest.skip(f"no disk of its own can be mounted here: {done.stderr}")
        pytest.fail(done.stderr)
    return int((folder / "first").read_text())


PATHS = [word if word != "in.jsonl" else "../in.jsonl" for word in WORDS]


@pytest.mark.parts  # a tmpfs of its own
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, of util-linux")
def test_run_on_a_full_disk_resumes_once_space_is_free(tmp_path: Path, expected: Expected) -> None:
    items = 1500
    make_job(tmp_path, items)
    code = small_disk(tmp_path, 0, PATHS)
    stderr = (tmp_path / "said").read_text()
    assert code == 5, stderr
    assert "No space left on device" in stderr
    assert "out.jsonl\n" not in (tmp_path / "there").read_text()
    kept = {result.index for result in records(tmp_path / "run.journal")}
    assert 100 < len(kept) < items
    assert len(kept) <= int((tmp_path / "executions").read_text()) <= len(kept) + CONCURRENCY
    finish(tmp_path)
    assert executions(tmp_path) == items - 1 - len(kept)  # one line is invalid
    assert outcomes(tmp_path) == expected(items)


@pytest.mark.parts  # a tmpfs of its own
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, of util-linux")
def test_full_disk_is_reported_before_the_first_item(tmp_path: Path) -> None:
    make_job(tmp_path, 10)
    assert small_disk(tmp_path, 2500, PATHS) == 5
    assert "journal run.journal: writing it failed: No space left on device" in (tmp_path / "said").read_text()
    assert int((tmp_path / "executions").read_text()) == 0
    assert "out.jsonl" not in (tmp_path / "there").read_text()
