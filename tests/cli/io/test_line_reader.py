"""Line reader: bounded lines from a byte stream."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt.cli.exit_codes import CommandError
from flowrt.cli.io.line_reader import BlockReader, LongLine, split_lines
from flowrt.cli.options.input import LINE_LIMIT_BYTES


@given(st.lists(st.binary(max_size=12)), st.integers(1, 7))
def test_lines_do_not_depend_on_block_boundaries(lines: list[bytes], size: int) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    data = b"\n".join(lines)
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    got = [line for part in split_lines(blocks, 5) for line in part]
    assert len(got) == len(expected)
    for line, whole in zip(got, expected, strict=True):
        if len(whole) <= 5:
            assert line == whole
        else:
            assert isinstance(line, LongLine)
            assert line.size_bytes == len(whole)
            assert whole.startswith(line.head)


def test_line_over_several_blocks_is_kept_up_to_the_limit() -> None:
    assert list(split_lines([b"12", b"345\n", b"123", b"456", b"\nx"], 5)) == [[b"12345"], [_Same(b"123456")], [b"x"]]


class _Same:
    def __init__(self, line: bytes) -> None:
        self.line = line

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LongLine) and other.size_bytes == len(self.line) and self.line.startswith(other.head)

    __hash__ = None  # type: ignore[assignment]


def test_memory_stays_bounded_for_a_line_of_200_mb() -> None:
    block = b"x" * 65536
    tracemalloc.start()
    try:
        lines = [line for part in split_lines((block for _ in range(3200)), LINE_LIMIT_BYTES) for line in part]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(lines[0], LongLine)
    assert lines[0].size_bytes == 3200 * 65536
    assert peak < 40 * 1024 * 1024  # 16 MiB of a line that may still end, and its growth


def test_stop_ends_the_read_of_a_silent_pipe() -> None:
    reader, writer = os.pipe()
    blocks = BlockReader(reader, "a pipe")
    seen: list[bytes] = []
    thread = threading.Thread(target=lambda: seen.extend(blocks), daemon=True)
    thread.start()
    os.write(writer, b"abc")
    while not seen:
        time.sleep(0.001)
    time.sleep(0.05)  # the thread waits for more by now
    blocks.stop()
    thread.join(10)
    assert not thread.is_alive()
    blocks.close()
    os.close(writer)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(reader)


def test_read_error_names_the_file_and_exits_65() -> None:
    writer_only = os.open("/dev/null", os.O_WRONLY)
    blocks = BlockReader(writer_only, "data.jsonl")
    with pytest.raises(CommandError, match=r"data\.jsonl cannot be read") as caught:
        list(blocks)
    assert caught.value.exit_code == 65
    blocks.close()
