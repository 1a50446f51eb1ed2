"""Processes executor: real worker processes."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowrt import BaseNode, BatchProcessor, NodeContext, NodeResult, ProcessesExecutor, WorkflowContext
from flowrt.executors import processes
from flowrt.executors.workers import worker_states

Run = Callable[[Any], Any]


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessesExecutor]:
    """Two warm workers for the tests that do not harm them."""
    executor = ProcessesExecutor(2)
    yield executor
    executor.close()


def processor(node: Any, executor: Any, c: int = 20, **settings: Any) -> BatchProcessor[Any, Any]:
    return BatchProcessor(node, c, telemetry=False, executor=executor, **settings)


def square(x: int) -> int:
    return x * x


async def square_and_pid(x: int) -> tuple[int, int]:
    await asyncio.sleep(0.001)
    return x * x, os.getpid()


def test_modules_are_listed_while_another_thread_imports_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads run whenever the garbage collector calls back: a Runtime's server imports uvicorn at its start."""
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    imported = (f"imported{number}" for number in itertools.count())

    def import_one(phase: str, _: dict[str, Any]) -> None:
        sys.modules[next(imported)] = sys

    limits = gc.get_threshold()
    gc.callbacks.append(import_one)
    gc.set_threshold(1)
    try:
        found = processes._modules_from_files()
    finally:
        gc.set_threshold(*limits)
        gc.callbacks.remove(import_one)
    assert not any(name.startswith("imported") for name in found)
    assert next(imported) != "imported0", "the collector has run"


class Located(BaseNode):
    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        return NodeResult(
            True,
            {"index": node_context.index, "attempt": node_context.attempt, "id": workflow_context.workflow_id},
            metadata={"pid": os.getpid()},
        )


def test_plain_functions_run_in_worker_processes(run: Run, executor: ProcessesExecutor) -> None:
    results = run(processor(square, executor).batch(range(200)))
    assert [r.output for r in results] == [x * x for x in range(200)]
    pids = run(processor(lambda _: os.getpid(), executor).batch(range(200)))
    assert os.getpid() not in {r.output for r in pids}


def test_coroutines_run_in_all_workers(run: Run, executor: ProcessesExecutor) -> None:
    results = run(processor(square_and_pid, executor).batch(range(50)))
    assert [r.output[0] for r in results] == [x * x for x in range(50)]
    states = {state.pid: state for state in worker_states()}  # other tests' workers may be among them
    ran = {r.output[1] for r in results}
    assert ran <= states.keys()
    assert all(states[pid].ready and not states[pid].inflight and states[pid].resident_bytes for pid in ran)


def test_node_gets_its_context_and_returns_metadata(run: Run, executor: ProcessesExecutor) -> None:
    results = run(processor(Located("located"), executor).batch(list("ab"), WorkflowContext("flow")))
    assert [r.output for r in results] == [{"index": i, "attempt": 1, "id": "flow"} for i in range(2)]
    assert all(r.metadata["pid"] != os.getpid() for r in results)


def test_windows_is_refused_with_what_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(ValueError, match=r"does not run on Windows.*ProcessPoolExecutor"):
        ProcessesExecutor(2)
