"""Recovery: a torn tail is cut off, and damage is reported by its offset, at every byte."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flowrt.errors import JournalDamagedError
from flowrt.journal import Journal
from tests.chaos.harness import FULL
from tests.journal.harness import FINGERPRINT, HastyDisk, failure, item, restored, write

COUNT = 8
STEP = 1 if FULL else 3  # `make chaos` tests every byte
HASTY = HastyDisk()
ITEMS = [failure(index) if index == 3 else item(index) for index in range(COUNT)]


def lines_of(content: bytes) -> list[tuple[int, int, bytes]]:
    """Return the start, end and content of each line."""
    found, at = [], 0
    for line in content.splitlines(keepends=True):
        found.append((at, at + len(line), line))
        at += len(line)
    return found


def whole_before(content: bytes, size: int) -> set[int]:
    """Return the indices of the complete records in a file of a size."""
    ends = [(end, line.split(b" ")) for _, end, line in lines_of(content)[1:] if end <= size]
    return {int(words[1]) for _, words in ends if words[1] != b"@"}


@pytest.fixture(params=["one group", "many groups", "every item a group", "of two runs", "torn before"])
def content(request: pytest.FixtureRequest, path: Path) -> bytes:
    """Return a journal that was not closed, as after a kill."""
    match request.param:
        case "one group":
            write(path, ITEMS, group=COUNT, close=False)
        case "many groups":
            write(path, ITEMS, group=3, close=False)
        case "every item a group":
            write(path, ITEMS, group=1, close=False)
        case "of two runs":
            write(path, ITEMS[:4], group=3)
            write(path, ITEMS[4:], group=3, close=False)
        case _:
            write(path, ITEMS[:7], group=3, close=False)
            whole = path.read_bytes()
            path.write_bytes(whole[:-200])
            write(path, ITEMS[6:], group=3, close=False)
    return path.read_bytes()


def test_journal_cut_at_any_byte_keeps_every_whole_record(path: Path, content: bytes) -> None:
    for size in range(len(content)):
        path.write_bytes(content[:size])
        expected = whole_before(content, size)
        assert restored(path, range(COUNT), disk=HASTY).keys() == expected, size
        if size % 7 == 0:  # and the next run continues from there
            write(path, [result for result in ITEMS if result.index not in expected], close=False, disk=HASTY)
            assert len(restored(path, range(COUNT), disk=HASTY)) == COUNT, size


def test_journal_cut_twice_keeps_every_whole_record(path: Path, content: bytes) -> None:
    for first in range(len(content) - 60, len(content), 7):
        path.write_bytes(content[:first])
        write(path, ITEMS[6:], group=1, close=False, disk=HASTY)
        resumed = path.read_bytes()
        for size in range(first - 5, len(resumed), STEP):
            path.write_bytes(resumed[:size])
            assert restored(path, range(COUNT), disk=HASTY).keys() == whole_before(resumed, size), (first, size)


def test_torn_tail_is_logged_with_its_length(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(content[:-10])
    last = lines_of(content)[-1]
    with caplog.at_level(logging.WARNING), Journal(path, FINGERPRINT) as journal:
        assert journal.torn_bytes == last[1] - last[0] - 10
    [record] = caplog.records
    assert f"its last {journal.torn_bytes} bytes were not written whole" in record.getMessage()
    caplog.clear()
    restored(path, [])
    assert not caplog.records


@pytest.mark.parametrize("bit", [0, 5])  # 5 changes the case of a letter, and a checksum is written in letters
def test_flipped_bit_is_reported_by_the_offset_of_its_line(path: Path, content: bytes, bit: int) -> None:
    lines = lines_of(content)
    for number, (start, end, _) in enumerate(lines):
        for at in sorted({*range(start, end, STEP), end - 1}):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            joined = at == end - 1 and number == len(lines) - 2  # without the line break the last two lines are one
            if number == len(lines) - 1 or joined:
                assert restored(path, range(COUNT), disk=HASTY).keys() == whole_before(content, start)
                continue
            with pytest.raises(JournalDamagedError) as caught:
                Journal(path, FINGERPRINT)
            assert caught.value.offset == start
            if number:
                assert f"is damaged at offset {start} (" in str(caught.value)


def test_flipped_bit_in_the_last_record_is_damage_after_close(path: Path) -> None:
    write(path, ITEMS, group=COUNT)
    content = path.read_bytes()
    start, end, _ = lines_of(content)[-2]
    for at in range(start, end - 1):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(JournalDamagedError) as caught:
            Journal(path, FINGERPRINT)
        assert caught.value.offset == start


def test_damaged_journal_is_not_changed(path: Path) -> None:
    write(path, ITEMS)
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalDamagedError):
        Journal(path, FINGERPRINT)
    assert path.read_bytes() == content


def test_missing_pages_of_the_last_group_are_a_torn_tail(path: Path) -> None:
    write(path, ITEMS[:2], close=False)
    synced = path.stat().st_size
    write(path, ITEMS[2:], group=COUNT, close=False)
    content = bytearray(path.read_bytes())
    (start, _, _), (_, later_end, _) = lines_of(bytes(content))[-4:-2]
    content[start + 20 : later_end - 30] = bytes(later_end - 30 - start - 20)
    path.write_bytes(content)
    assert start > synced
    assert restored(path, range(COUNT)).keys() == whole_before(bytes(content), start)


def test_missing_pages_of_an_earlier_group_are_damage(path: Path) -> None:
    write(path, ITEMS, group=4, close=False)
    content = bytearray(path.read_bytes())
    start, end, _ = lines_of(bytes(content))[4]
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    with pytest.raises(JournalDamagedError, match=f"at offset {start}"):
        Journal(path, FINGERPRINT)


def test_garbage_longer_than_the_group_is_damage(path: Path) -> None:
    write(path, ITEMS, group=2, close=False)
    content = path.read_bytes()
    start = lines_of(content)[4][0]
    path.write_bytes(content[:start] + b"\xaa" * (len(content) - start))
    with pytest.raises(JournalDamagedError, match=f"at offset {start} .a later group was begun"):
        Journal(path, FINGERPRINT)


def test_tail_of_zeros_is_cut_off(path: Path) -> None:
    write(path, ITEMS, close=False)
    with path.open("ab") as file:
        file.write(bytes(1 << 20))  # space was reserved, and the process killed before it was released
    assert len(restored(path, range(COUNT))) == COUNT


def test_removed_line_is_damage(path: Path) -> None:
    write(path, ITEMS, group=4)
    content = path.read_bytes()
    start, end, _ = lines_of(content)[4]
    path.write_bytes(content[:start] + content[end:])
    with pytest.raises(JournalDamagedError, match="taken out or put in"):
        Journal(path, FINGERPRINT)


@pytest.mark.parametrize("content", [b"", b"f", b"flowrt-journal ", b"flowrt-journal 12ab", bytes(300)])
def test_journal_with_an_incomplete_first_line_starts_anew(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with Journal(path, FINGERPRINT) as journal:
        assert not journal.resumed
    write(path, ITEMS)
    assert len(restored(path, range(COUNT))) == COUNT
