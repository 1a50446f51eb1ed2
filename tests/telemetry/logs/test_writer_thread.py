"""Thread that writes log lines: how many lines it writes at once."""

from __future__ import annotations

import io
import threading
import time
from types import SimpleNamespace

import pytest

from flowrt.telemetry.logs import writer_thread
from flowrt.telemetry.logs.writer_thread import LineSink


class Writes(io.StringIO):
    """Stream that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        self.texts.append(text)
        return len(text)


def written(monkeypatch: pytest.MonkeyPatch, lines: list[list[str]]) -> tuple[list[str], int]:
    """Write a line, and further ones during each pause of the thread; return the texts of all writes and the pauses."""
    stream, pauses, ended = Writes(), iter(lines), threading.Event()
    begun = 0

    def pause(_: float) -> None:
        nonlocal begun
        begun += 1
        for line in next(pauses, []):
            sink.write(line)
        if begun > len(lines):
            ended.set()

    monkeypatch.setattr(writer_thread, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    sink = LineSink(stream)
    sink.write("first")
    assert ended.wait(60)
    made = list(stream.texts), begun
    sink.close()
    return made


def test_lines_that_keep_coming_are_gathered_before_each_write(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, pauses = written(monkeypatch, [["a", "b"], ["c"], ["d", "e", "f"]])
    assert texts == ["first\n", "a\nb\n", "c\n", "d\ne\nf\n"]
    assert pauses == 4


def test_more_lines_than_one_write_may_have_are_written_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_thread, "_MOST_GATHERED", 2)
    texts, pauses = written(monkeypatch, [["a", "b", "c", "d", "e"]])
    assert texts == ["first\n", "a\nb\n", "c\nd\n", "e\n"]
    assert pauses == 2
