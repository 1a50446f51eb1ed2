"""Conformance of the executors: all give the same results, statuses, counts and times."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from flowrt import BatchProcessor, Hedge, ItemFailedError, ProcessesExecutor, RetryPolicy
from flowrt.executors import LoopExecutor, ThreadsExecutor
from flowrt.model import STATUSES
from flowrt.telemetry.metrics.snapshot import Reader
from flowrt.telemetry.metrics.store import METRICS
from flowrt.testing import run_on
from tests.executors import worker_nodes as nodes
from tests.executors.differences import DIFFERENCES, Difference, name_of
from tests.executors.in_memory import MemoryExecutor

PLAIN_AND_ASYNC = pytest.mark.parametrize("kind", ["plain", "async"])


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessesExecutor]:
    executor = ProcessesExecutor(2)
    yield executor
    executor.close()


@pytest.fixture(params=["loop", "threads", "memory", "processes"])
def executor(request: pytest.FixtureRequest) -> Any:
    if request.param == "processes":
        return request.getfixturevalue("processes")
    return {"loop": LoopExecutor, "threads": ThreadsExecutor, "memory": MemoryExecutor}[request.param]()


def run(main: Any) -> Any:
    return run_on(uvloop.new_event_loop, main)


def node_of(kind: str, plain: Callable[[Any], Any]) -> Any:
    return plain if kind == "plain" else nodes.later(plain)


def values(metric: str, batch: str) -> dict[str, float]:
    """Return the values of a metric's series of one batch, by the last label."""
    for reading in Reader(METRICS).read():
        if reading.metric.name == metric:
            return {labels[-1]: value for labels, value in reading.rows if labels[0] == batch}
    raise KeyError(metric)


@PLAIN_AND_ASYNC
def test_outputs_are_in_the_order_of_the_inputs(executor: Any, kind: str) -> None:
    inputs = [0, None, "text", {"a": [1, {"b": (2, 3)}]}, [], {}, b"bytes", 1.5, True]
    results = run(BatchProcessor(node_of(kind, nodes.describe), 4, executor=executor).batch(inputs))
    assert [r.output for r in results] == inputs
    assert [r.index for r in results] == list(range(len(inputs)))
    assert {(r.status, r.attempts) for r in results} == {("ok", 1)}
    assert all(0 <= r.execution_time < 60 for r in results)


@PLAIN_AND_ASYNC
def test_errors_keep_their_type_message_and_neighbours(executor: Any, kind: str) -> None:
    inputs = [1, "odd error", 2, "value error", 3, "generator", 4]
    results = run(BatchProcessor(node_of(kind, nodes.describe), 3, executor=executor).batch(inputs))
    assert [r.status for r in results] == ["ok", "failed"] * 3 + ["ok"]
    assert [r.error_type for r in results if not r.success] == ["OddError", "ValueError", "TypeError"]
    assert results[1].error == "7: odd"
    assert results[3].error == "no such value"
    assert "returned a generator" in results[5].error
    assert isinstance(results[3].exception, ValueError)


def test_node_result_metadata_and_failure_come_back(executor: Any) -> None:
    results = run(BatchProcessor(nodes.Labelled("labelled"), 3, executor=executor).batch([1, -1]))
    assert (results[0].output, results[0].metadata) == (2, {"index": 0, "attempt": 1})
    assert (results[1].status, results[1].error, results[1].error_type) == ("failed", "negative", "ItemFailedError")


@PLAIN_AND_ASYNC
def test_failed_attempts_are_retried(executor: Any, kind: str, tmp_path: Path) -> None:
    items = [{"x": x, "log": str(tmp_path / str(x)), "fails": x % 3} for x in range(9)]
    processor = BatchProcessor(
        node_of(kind, nodes.fail_at_first), 4, executor=executor, retry=RetryPolicy(4, base=0.001), name="retried"
    )
    results = run(processor.batch(items))
    assert [r.output for r in results] == list(range(9))
    assert [r.attempts for r in results] == [x % 3 + 1 for x in range(9)]
    assert values("flowrt_item_attempts_total", "retried") == {"ok": 9, "failed": 9, "timed_out": 0}
    assert values("flowrt_item_retries_total", "retried")["error"] == 9


def test_hedge_wins_where_the_first_attempt_hangs(executor: Any) -> None:
    processor = BatchProcessor(nodes.HangsAtFirst("hangs"), 4, executor=executor, hedge=Hedge(after=0.2, share=1.0))
    results = run(processor.batch(list(range(4))))
    assert results[0].output == 2
    assert {r.output for r in results[1:]} <= {1, 2}  # on a slow machine they may be hedged too
    assert all(r.success for r in results)


def test_time_limit_ends_the_attempt_alone(executor: Any) -> None:
    processor = BatchProcessor(nodes.nap_async, 4, executor=executor, item_timeout=3.0, name="limited")
    results = run(processor.batch([0.0, 60.0, 0.0, 0.0]))
    assert [r.status for r in results] == ["ok", "timed_out", "ok", "ok"]
    assert 2.5 <= results[1].execution_time < 30  # it may count from a later moment than the limit, on a busy machine
    assert values("flowrt_items_total", "limited") == {**dict.fromkeys(STATUSES, 0), "ok": 3, "timed_out": 1}


def test_cancelled_batch_leaves_nothing_and_the_executor_usable(executor: Any) -> None:
    async def main() -> Any:
        processor = BatchProcessor(nodes.nap_async, 8, executor=executor)
        batch = asyncio.ensure_future(processor.batch([60.0] * 20))
        await asyncio.sleep(0.1)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        return await processor.batch([0.0] * 20)

    assert {r.status for r in run(main())} == {"ok"}


def test_batch_time_limit_keeps_what_has_finished(executor: Any) -> None:
    async def main() -> Any:
        await BatchProcessor(nodes.nap_async, 8, executor=executor).batch([0.0] * 8)  # starts workers, which takes time
        processor = BatchProcessor(nodes.nap_async, 8, executor=executor, batch_timeout=3.0)
        return await processor.batch([0.0] * 4 + [60.0] * 8)

    results = run(main())
    assert [r.status for r in results] == ["ok"] * 4 + ["cancelled"] * 8


@PLAIN_AND_ASYNC
def test_fail_fast_raises_the_nodes_own_error(executor: Any, kind: str) -> None:
    processor = BatchProcessor(node_of(kind, nodes.describe), 2, False, executor=executor)
    with pytest.raises(ValueError, match="no such value"):
        run(processor.batch([1, 2, "value error", *range(100)]))
    with pytest.raises(ItemFailedError, match="negative"):
        run(BatchProcessor(nodes.Labelled("labelled"), 2, False, executor=executor).batch([1, -1]))


@PLAIN_AND_ASYNC
def test_stream_yields_each_item_once_and_may_be_left(executor: Any, kind: str) -> None:
    async def main() -> tuple[list[int], int]:
        processor = BatchProcessor(node_of(kind, nodes.describe), 5, executor=executor)
        every = [result.index async for result in processor.batch_as_completed(range(200))]
        seen = 0
        async with contextlib.aclosing(processor.batch_as_completed(range(1_000_000))) as stream:
            async for _ in stream:
                seen += 1
                if seen == 50:
                    break
        return every, seen

    every, seen = run(main())
    assert sorted(every) == list(range(200))
    assert seen == 50


@PLAIN_AND_ASYNC
def test_second_run_resumes_from_the_journal(executor: Any, kind: str, tmp_path: Path) -> None:
    items = [{"x": x, "log": str(tmp_path / str(x)), "fails": 1 if x == 5 else 0} for x in range(10)]

    def processor() -> BatchProcessor[Any, Any]:
        return BatchProcessor(node_of(kind, nodes.fail_at_first), 3, executor=executor, journal=tmp_path / "journal")

    assert Counter(r.status for r in run(processor().batch(items))) == {"ok": 9, "failed": 1}
    again = run(processor().batch(items))
    assert Counter(r.status for r in again) == {"resumed": 9, "failed": 1}
    assert [r.output for r in again if r.success] == [x for x in range(10) if x != 5]
    assert {(tmp_path / str(x)).read_text() for x in range(10)} == {f"{x}\n" for x in range(10)}


@PLAIN_AND_ASYNC
def test_telemetry_counts_what_the_results_say(executor: Any, kind: str) -> None:
    inputs = [*range(30), "value error", "odd error"]
    results = run(BatchProcessor(node_of(kind, nodes.describe), 6, executor=executor, name="counted").batch(inputs))
    statuses = Counter(r.status for r in results)
    assert values("flowrt_items_total", "counted") == {**dict.fromkeys(STATUSES, 0), **statuses}
    assert values("flowrt_item_errors_total", "counted") == {"ValueError": 1, "OddError": 1}
    assert values("flowrt_item_attempts_total", "counted") == {"ok": 30, "failed": 2, "timed_out": 0}
    assert values("flowrt_unaccounted_items", "counted") == {"counted": 0}
    busy = values("flowrt_slot_busy_seconds_total", "counted")["describe"]
    assert busy == pytest.approx(sum(r.execution_time for r in results), abs=0.01)


def test_nested_batch_runs_inside_an_item(executor: Any) -> None:
    results = run(BatchProcessor(nodes.nested(), 2, executor=executor).batch([{"items": [1, 2]}, {"items": [3]}]))
    assert [r.output["results"] for r in results] == [[1, 2], [3]]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=str)
@pytest.mark.parametrize("executor", ["loop", "threads", "processes"], indirect=True)
def test_difference_is_as_the_docs_say(
    executor: Any, difference: Difference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrt.engine.cancellation.GRACE_S", 0.5)  # until a thread is abandoned
    monkeypatch.setattr("flowrt.engine.timeouts._GRACE_NS", 500_000_000)
    assert difference.observe(executor, tmp_path) == difference.expected(name_of(executor))
