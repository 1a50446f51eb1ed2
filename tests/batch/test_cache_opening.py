"""Cache in a file: shared by batches and processes, and no reason for a batch to fail."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowrt
from flowrt import Cache

Run = Callable[[Any], Any]


class Node:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def __call__(self, x: Any) -> Any:
        self.calls.append(x)
        await asyncio.sleep(0)
        return {"of": x}


def test_file_answers_a_later_run(run: Run, tmp_path: Path) -> None:
    path, node = tmp_path / "outputs.db", Node()
    inputs = [x % 50 for x in range(500)]
    first = run(flowrt.map(node, inputs, cache=path, max_concurrency=20))
    assert sorted(node.calls) == list(range(50))
    again = run(flowrt.map(node, inputs, cache=str(path), max_concurrency=20))
    assert len(node.calls) == 50
    assert first.outputs == again.outputs == [{"of": x} for x in inputs]
    assert (first.report.cached, again.report.cached) == (450, 500)


def test_file_is_used_in_virtual_time_too(run_virtual: Run, tmp_path: Path) -> None:
    node = Node()
    for _ in range(2):
        assert run_virtual(flowrt.map(node, [1, 2, 1], cache=tmp_path / "outputs.db")).outputs[2] == {"of": 1}
    assert sorted(node.calls) == [1, 2]


def test_two_batches_use_a_file_at_once(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "outputs.db"

    async def both() -> list[Any]:
        return await asyncio.gather(*(flowrt.map(Node(), range(200), cache=path) for _ in range(2)))

    for results in run(both()):
        assert results.outputs == [{"of": x} for x in range(200)]


def test_versions_and_nodes_have_outputs_of_their_own(run: Run, tmp_path: Path) -> None:
    path, node = tmp_path / "outputs.db", Node()
    first = flowrt.FunctionNode(node, "first")
    run(flowrt.map(first, [1], cache=Cache(path)))
    run(flowrt.map(first, [1], cache=Cache(path, version="2")))
    run(flowrt.map(flowrt.FunctionNode(node, "second"), [1], cache=Cache(path)))
    assert node.calls == [1, 1, 1]
    run(flowrt.map(first, [1], cache=Cache(path, version="2")))
    assert node.calls == [1, 1, 1]


def test_foreign_file_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    path, node = tmp_path / "notes.txt", Node()
    path.write_text("these are my notes, and no database at all: " + 100 * "x")
    with pytest.raises(ValueError, match="is not a cache of flowrt"):
        run(flowrt.map(node, [1], cache=path))
    assert node.calls == []


def test_batch_runs_without_a_file_that_cannot_be_opened(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = run(flowrt.map(Node(), [1, 2, 1], cache=tmp_path / "missing" / "outputs.db"))
    assert results.outputs == [{"of": 1}, {"of": 2}, {"of": 1}]
    assert "is not used: FileNotFoundError" in caplog.text


def test_batch_goes_on_when_the_file_fails(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowrt.policies.cache_file import CacheFile

    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(CacheFile, "exchange", fail)
    results = run(flowrt.map(Node(), [1, 2, 3, 1], cache=tmp_path / "outputs.db"))
    assert results.outputs == [{"of": 1}, {"of": 2}, {"of": 3}, {"of": 1}]
    assert caplog.text.count("is not used: OperationalError: disk I/O error") == 1


def test_no_thread_of_the_file_is_left(run: Run, tmp_path: Path) -> None:
    import threading

    run(flowrt.map(Node(), range(100), cache=tmp_path / "outputs.db"))
    assert [thread.name for thread in threading.enumerate() if "flowrt-cache" in thread.name] == []
