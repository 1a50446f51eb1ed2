"""Inspection of active and damaged journals, and salvage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowrt._version import __version__
from flowrt.errors import JournalDamagedError, JournalDiskError
from flowrt.journal import Journal, export, records, salvage, summary
from flowrt.model.json_lines import encode_result
from tests.journal.harness import FINGERPRINT, FULL, FakeLoop, FaultyDisk, failure, item, restored, write

ITEMS = [item(4), failure(1), item(0), failure(2, status="timed_out"), item(1)]


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def start_of(path: Path, index: int) -> int:
    """Return the offset of an index's first record."""
    at = 0
    for line in path.read_bytes().splitlines(keepends=True)[1:]:
        if line.split(b" ")[1] == b"%d" % index:
            return path.read_bytes().index(line)
        at += len(line)
    raise KeyError(index)


def test_summary_counts_each_item_once_by_its_last_record(path: Path) -> None:
    write(path, ITEMS)
    seen = summary(path)
    assert (seen.items, seen.records, seen.groups, seen.last_index) == (4, 5, 2, 4)
    assert seen.counts == {"ok": 3, "failed": 0, "timed_out": 1}
    assert (seen.fingerprint, seen.flowrt) == (FINGERPRINT, __version__)
    assert seen.created.endswith("+00:00")
    assert (seen.size_bytes, seen.torn_bytes) == (path.stat().st_size, 0)
    assert (seen.damaged_at, seen.damage) == (None, None)


def test_records_come_in_the_order_of_writing(path: Path) -> None:
    write(path, ITEMS)
    found = list(records(path))
    assert [(result.index, result.status) for result in found] == [(r.index, r.status) for r in ITEMS]
    assert found[0].output == {"v": 4}
    assert found[0].input_data is None


def test_export_has_each_index_once_and_in_order(path: Path) -> None:
    write(path, ITEMS)
    last = {result.index: result for result in ITEMS}
    assert list(export(path)) == [encode_result(last[index]) for index in sorted(last)]


def test_active_journal_can_be_inspected(path: Path) -> None:
    loop = FakeLoop()
    with loop.start(Journal(path, FINGERPRINT)) as journal:
        for index in range(3):
            journal.append(item(index), index)
            loop.settle(journal)
            assert summary(path).items == index + 1
            assert len(list(export(path))) == index + 1
        before = path.read_bytes()
        with path.open("ab") as file:  # half a group
            file.write(b"0123abcd @ 5")
        assert (summary(path).items, summary(path).torn_bytes) == (3, 12)
        assert len(list(records(path))) == 3
        path.write_bytes(before)


def test_inspection_changes_nothing(path: Path) -> None:
    write(path, ITEMS, close=False)
    path.write_bytes(path.read_bytes()[:-5])
    path.chmod(0o400)
    before = path.read_bytes()
    summary(path), list(records(path)), list(export(path))
    assert path.read_bytes() == before


def test_summary_of_a_damaged_journal_names_the_offset(path: Path) -> None:
    write(path, ITEMS)
    start = start_of(path, 0)
    flip(path, start + 30)
    seen = summary(path)
    assert (seen.damaged_at, seen.items) == (start, 2)
    assert f"damaged at offset {start}" in str(seen.damage)
    with pytest.raises(JournalDamagedError):
        list(export(path))
    given = []
    with pytest.raises(JournalDamagedError):
        given.extend(result.index for result in records(path))
    assert [json.loads(line)["index"] for line in export(path, skip_damaged=True)] == [1, 2, 4]
    assert [result.index for result in records(path, skip_damaged=True)] == [4, 1, 2, 1]


def test_summary_of_an_incomplete_first_line_is_empty(path: Path) -> None:
    path.write_bytes(b"flowrt-jour")
    seen = summary(path)
    assert (seen.items, seen.created, seen.torn_bytes) == (0, "", 11)
    assert list(records(path)) == list(export(path)) == []


def test_other_file_than_a_journal_is_refused(path: Path) -> None:
    path.write_bytes(b"a,b\n")
    for look in (summary, lambda p: list(records(p)), lambda p: list(export(p))):
        with pytest.raises(JournalDamagedError, match="is not a journal of flowrt"):
            look(path)
    with pytest.raises(FileNotFoundError):
        summary(path.with_name("missing"))


@pytest.mark.parametrize("where", ["one record", "a group's beginning", "many records"])
def test_salvage_copies_intact_records_to_resume_from(path: Path, where: str) -> None:
    results = [item(index) for index in range(40)]
    write(path, results)
    lost = {7} if where == "one record" else set() if where == "a group's beginning" else {7, 8, 20}
    if where == "a group's beginning":
        flip(path, path.read_bytes().index(b" @ ", 200) + 2)
    for index in lost:
        flip(path, start_of(path, index) + 50)
    before = path.read_bytes()
    with pytest.raises(JournalDamagedError, match="flowrt journal salvage"):
        Journal(path, FINGERPRINT)
    new = path.with_name("new.journal")
    left_out = salvage(path, new)
    assert left_out > 10
    assert path.read_bytes() == before
    assert set(restored(new, range(41))) == set(range(40)) - lost
    write(new, [results[index] for index in lost])
    assert list(export(new)) == [encode_result(result) for result in results]
    with pytest.raises(FileExistsError):
        salvage(path, new)


def test_salvage_writes_a_large_journal_in_groups(path: Path) -> None:
    results = [item(index, output="x" * 100_000) for index in range(50)]
    write(path, [*results, item(50)])
    with path.open("ab") as file:
        file.write(b"torn")
    new = path.with_name("new.journal")
    assert salvage(path, new) == 4
    assert summary(new).groups == 5
    assert len(restored(new, range(51))) == 51


def test_salvage_fails_without_a_first_line_or_on_a_full_disk(path: Path) -> None:
    write(path, ITEMS)
    with pytest.raises(JournalDiskError):
        salvage(path, path.with_name("new.journal"), disk=FaultyDisk({"sync": (3, FULL)}))
    path.write_bytes(b"flowrt")
    with pytest.raises(JournalDamagedError, match="is empty"):
        salvage(path, path.with_name("other.journal"))
    assert not path.with_name("other.journal").exists()
