"""Ray executor: the same results as on the loop, from real actors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from flowrt import (
    BaseNode,
    BatchProcessor,
    ItemFailedError,
    MapNode,
    NodeContext,
    NodeResult,
    RayExecutor,
    RetryPolicy,
    WorkflowContext,
)
from flowrt.errors import ExecutorFailedError
from flowrt.executors.workers import WorkerState, worker_states
from flowrt.testing import run_on
from tests.executors.worker_nodes import maybe_die, maybe_die_later, nap

Run = Callable[[Any], Any]
FIRST = r"each actor needs 64 CPU, and the cluster has [0-9.]+ of 4 CPU free"


@pytest.fixture
def run() -> Run:
    return lambda main: run_on(uvloop.new_event_loop, main)


def processor(node: Any, executor: Any, c: int = 20, **settings: Any) -> BatchProcessor[Any, Any]:
    settings = {"telemetry": False} | settings
    return BatchProcessor(node, c, executor=executor, **settings)


def ray_states() -> list[WorkerState]:
    """The actors of all open executors."""
    return [state for state in worker_states() if state.executor == "ray"]


def crashes() -> int:
    """Number of actors of all open executors that have crashed."""
    return sum(state.restarts["crash"] for state in ray_states())


def square(x: int) -> int:
    return x * x


async def square_later(x: int) -> tuple[int, int]:
    await asyncio.sleep(0.001)
    return x * x, os.getpid()


def refuse_odd(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


async def refuse_odd_later(x: int) -> int:
    await asyncio.sleep(0)
    return refuse_odd(x)


class SecondTime(BaseNode):
    """Succeeds at its second attempt, and says what it was given."""

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        if node_context.attempt == 1:
            raise ConnectionError("try again")
        return NodeResult(True, (node_context.index, workflow_context.workflow_id), metadata={"pid": os.getpid()})


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor_kind", ["loop", "ray"])
@pytest.mark.parametrize("node", [square, refuse_odd, refuse_odd_later])
def test_results_are_those_of_the_loop(run: Run, executor: Any, node: Any, executor_kind: str) -> None:
    results = run(processor(node, executor if executor_kind == "ray" else None).batch(range(100)))
    for x, result in enumerate(results):
        if node is not square and x % 2:
            assert (result.error_type, result.error) == ("ValueError", f"{x} is odd")
            assert type(result.exception) is ValueError
        else:
            assert result.success
            assert result.output == (x * x if node is square else x)


def test_coroutines_run_side_by_side_in_both_actors(run: Run, executor: Any) -> None:
    async def main() -> Any:
        async with asyncio.timeout(120):
            while sum(state.ready for state in ray_states()) < 2:  # an earlier test has killed one
                await processor(nap_later, executor).batch([0.1])
        return await processor(square_later, executor, 50).batch(range(200))

    results = run(main())
    assert [r.output[0] for r in results] == [x * x for x in range(200)]
    pids = {r.output[1] for r in results}
    assert len(pids) == 2
    assert os.getpid() not in pids
    states = ray_states()
    assert {state.pid for state in states} == pids
    assert all(state.ready and state.inflight == 0 and state.resident_bytes for state in states)


def test_node_gets_its_context_and_is_tried_again(run: Run, executor: Any) -> None:
    node = SecondTime("second", "test", "second", {})
    retry = RetryPolicy(2, base=0.01)
    results = run(processor(node, executor, retry=retry).batch(list("ab"), WorkflowContext("flow")))
    assert [r.output for r in results] == [(0, "flow"), (1, "flow")]
    assert [r.attempts for r in results] == [2, 2]
    assert all(r.metadata["pid"] != os.getpid() for r in results)


def test_large_inputs_and_outputs_pass_through_the_object_store_in_order(run: Run, executor: Any) -> None:
    def double(data: bytes) -> bytes:
        return data + data

    inputs = [bytes([x]) * (300_000 if x % 3 == 0 else 10) for x in range(30)]
    results = run(processor(double, executor).batch(inputs))
    assert [r.output for r in results] == [data + data for data in inputs]


def test_input_that_cannot_be_pickled_fails_alone(run: Run, executor: Any) -> None:
    results = run(processor(len, executor).batch(["a", [threading.Lock()], "ccc"]))
    assert [r.output for r in results] == [1, None, 3]
    assert "[0] is a lock, which cannot be pickled" in results[1].error
    with pytest.raises(TypeError, match="lock"):
        run(processor(lambda x, lock=threading.Lock(): x, executor).batch([1]))  # noqa: B008  # what is tested


def test_nested_map_runs_in_the_actor(run: Run, executor: Any) -> None:
    node = MapNode("map", lambda data: data["item"] + 1)
    results = run(processor(node, executor).batch([{"items": [x, x]} for x in range(5)]))
    assert [r.output["results"] for r in results] == [[x + 1, x + 1] for x in range(5)]


def test_stream_journal_and_resume(run: Run, executor: Any, tmp_path: Path) -> None:
    async def first() -> list[int]:
        seen = []
        async with processor(square, executor, journal=tmp_path / "j").batch_as_completed(range(50)) as results:
            async for result in results:
                seen.append(result.output)
                if len(seen) == 20:
                    break
        return seen

    seen = run(first())
    results = run(processor(square, None, journal=tmp_path / "j").batch(range(50)))
    assert [r.output for r in results] == [x * x for x in range(50)]
    assert sum(r.status == "resumed" for r in results) >= len(seen)


# -- time limits and cancellation --------------------------------------------------------------------------------------


async def nap_later(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@pytest.mark.parametrize("node", [nap, nap_later])
def test_time_limit_ends_the_item_alone(run: Run, cluster: Any, node: Any) -> None:
    async def main() -> Any:
        async with RayExecutor(2) as executor:
            await processor(node, executor).batch([0.0])
            return await processor(node, executor, 4, item_timeout=2).batch([0.01, 600, *[0.02] * 20])

    results = run(main())
    assert [r.status for r in results] == ["ok", "timed_out", *["ok"] * 20]


def test_first_failure_ends_a_fail_fast_batch(run: Run, executor: Any) -> None:
    with pytest.raises(ValueError, match="is odd") as caught:
        run(processor(refuse_odd, executor, continue_on_error=False).batch(range(100)))
    assert "refuse_odd" in str(caught.value.__cause__)  # the traceback in the actor

    async def fails(x: int) -> NodeResult:
        return NodeResult(False, error="no")

    with pytest.raises(ItemFailedError):
        run(processor(fails, executor, continue_on_error=False).batch(range(3)))


def test_cancelled_batch_leaves_the_actors_usable(run: Run, executor: Any) -> None:
    async def main() -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(processor(nap_later, executor).batch([600] * 50), 1)
        return await processor(square, executor).batch(range(10))

    assert [r.output for r in run(main())] == [x * x for x in range(10)]


# -- crashes -----------------------------------------------------------------------------------------------------------


def items_of(tmp_path: Path, count: int, **special: dict[str, Any]) -> list[dict[str, Any]]:
    log = tmp_path / "log"
    log.touch()
    return [{"x": x, "log": str(log), **special.get(f"item{x}", {})} for x in range(count)]


@pytest.mark.parametrize("node", [maybe_die, maybe_die_later])
def test_culprit_fails_after_three_actors_and_the_others_succeed(
    run: Run, cluster: Any, tmp_path: Path, node: Any
) -> None:
    items = items_of(tmp_path, 40, item7={"dies": "SIGKILL"})
    before = crashes()

    async def main() -> Any:
        async with RayExecutor(2) as executor:
            return await processor(node, executor).batch(items), crashes() - before

    results, crashed = run(main())
    assert [r.index for r in results if not r.success] == [7]
    assert results[7].error_type == "WorkerCrashed"
    assert all(r.attempts == 1 and r.output == 2 * r.index for r in results if r.success)
    assert crashed == 3
    ran = Counter(map(int, (tmp_path / "log").read_text().split()))
    assert ran[7] == 3
    assert set(ran) == set(range(40))


def test_20_killed_actors_lose_nothing(run: Run, cluster: Any, tmp_path: Path) -> None:
    items = items_of(tmp_path, 5_000)
    rng = random.Random(20)  # noqa: S311  # which actor is killed
    others = {state.pid for state in ray_states()}
    kills = 0

    async def main() -> Any:
        nonlocal kills
        async with RayExecutor(2, max_crashes=25) as executor:
            results = []
            async for result in processor(maybe_die, executor, 50).batch_as_completed(items):
                results.append(result)
                if len(results) >= 200 * (kills + 1) and kills < 20:
                    pids = [state.pid for state in ray_states() if state.ready and state.pid not in others]
                    with contextlib.suppress(ProcessLookupError, IndexError):  # none, or one that is dead already
                        os.kill(rng.choice(pids), signal.SIGKILL)
                        kills += 1
            return results

    results = run(main())
    assert kills == 20
    assert sorted((r.index, r.output) for r in results) == [(x, 2 * x) for x in range(5_000)]
    assert all(r.success and r.attempts == 1 for r in results)


# -- start -------------------------------------------------------------------------------------------------------------


def test_initializer_runs_once_in_each_actor(run: Run, cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def load() -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")

    async def main() -> Any:
        async with RayExecutor(2, initializer=load) as executor:
            return {r.output[1] for _ in range(2) for r in await processor(square_later, executor).batch(range(20))}

    pids = run(main())
    loaded = list(map(int, log.read_text().split()))
    assert len(loaded) == len(set(loaded))
    assert set(loaded) >= pids


def test_failing_initializer_ends_the_batch_with_its_traceback(run: Run, cluster: Any) -> None:
    def load() -> None:
        raise OSError("no such model")

    async def main() -> None:
        async with RayExecutor(1, initializer=load) as executor:
            await processor(square, executor).batch(range(3))

    with pytest.raises(ExecutorFailedError, match="no such model"):
        run(main())


def test_actors_that_do_not_fit_are_reported_and_given_up(
    run: Run, cluster: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrt.executors.ray_cluster._SAY_PENDING_S", 1)

    async def main() -> None:
        async with RayExecutor(2, num_cpus=64, start_timeout=3) as executor:
            await processor(square, executor).batch(range(3))

    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "flowrt.workers"), pytest.raises(ExecutorFailedError, match=FIRST):
        run(main())
    assert time.monotonic() - began < 60  # a hang guard
    assert re.search(rf"Ray actor w\d has been pending for \d+ s: {FIRST}", caplog.text)


def test_batch_starts_with_the_first_actor_that_is_there(run: Run, cluster: Any) -> None:
    async def main() -> Any:
        async with RayExecutor(3, num_cpus=2) as executor:  # beside the two warm ones, one fits
            return await processor(square, executor).batch(range(100))

    assert [r.output for r in run(main())] == [x * x for x in range(100)]
