"""Hedging in a batch, in virtual time: which items are hedged, which attempt wins, how the losing attempt ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrt import (
    BaseNode,
    BatchProcessor,
    CircuitBreaker,
    Hedge,
    Instrument,
    ItemRecord,
    NodeContext,
    NodeResult,
    RateLimit,
    RetryPolicy,
    WorkflowContext,
)
from flowrt.testing import ScriptedNode, hangs, returns, run_on, run_virtual, sleeps
from tests.examples import examples

Run = Callable[[Any], Any]
Takes = Callable[[int, int], float]
QUICK = {"telemetry": False}


class Service(BaseNode):
    """Node whose attempts last and fail as two functions say; it records the start and the outcome of each.

    Args:
        takes: Duration of an attempt in seconds, by item and attempt number.
        fails: Whether an attempt fails, by item and attempt number.
    """

    def __init__(self, takes: Takes, fails: Callable[[int, int], bool] = lambda x, attempt: False) -> None:
        super().__init__("service")
        self.takes, self.fails = takes, fails
        self.began: list[tuple[float, int, int]] = []
        self.ends: list[tuple[int, int, str]] = []
        self.running = 0

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        x, attempt = node_context.input_data, node_context.attempt
        self.began.append((asyncio.get_running_loop().time(), x, attempt))
        self.running += 1
        end = "cancelled"
        try:
            await asyncio.sleep(self.takes(x, attempt))
            end = "failed" if self.fails(x, attempt) else "ok"
        finally:
            self.running -= 1
            self.ends.append((x, attempt, end))
        if end == "failed":
            raise ConnectionError(f"attempt {attempt}")
        return NodeResult(True, attempt)


class Recorder(Instrument):
    """Instrument that records the outcomes of hedges and the items that have finished."""

    def __init__(self) -> None:
        self.hedges: list[tuple[int, int, str]] = []
        self.ended: list[int] = []

    def hedge_ended(self, item: ItemRecord) -> None:
        assert item.index not in self.ended, "the item had finished"
        assert item.hedge is not None
        assert item.hedge.started_ns <= item.hedge.finished_ns
        self.hedges.append((item.index, item.hedge.number, item.hedge.outcome))

    def item_finished(self, item: ItemRecord) -> None:
        self.ended.append(item.index)


def first_of_0_is_slow(x: int, attempt: int) -> float:
    return 60.0 if (x, attempt) == (0, 1) else 1.0


def test_winning_hedge_gives_the_result_and_cancels_the_first_attempt(run_virtual: Run) -> None:
    node, recorder = Service(first_of_0_is_slow), Recorder()
    results = run_virtual(
        BatchProcessor(node, 2, hedge=Hedge(after=2.0), instruments=[recorder], **QUICK).batch(range(6))
    )
    assert [(r.status, r.output, r.attempts) for r in results] == [("ok", 2, 2), *[("ok", 1, 1)] * 5]
    assert (2.0, 0, 2) in [(pytest.approx(at, abs=0.02), x, attempt) for at, x, attempt in node.began if x == 0]
    assert node.ends.index((0, 1, "cancelled")) > node.ends.index((0, 2, "ok"))
    assert results[0].execution_time == pytest.approx(3, abs=0.1), "from the start of the first attempt"
    assert results[0].queue_time == 0
    assert recorder.hedges == [(0, 2, "won")]
    assert node.running == 0


def test_winning_first_attempt_cancels_and_awaits_its_hedge(
    run_virtual: Run,
) -> None:
    async def main() -> None:
        node, recorder = Service(lambda x, attempt: {1: 3.0, 2: 60.0}[attempt]), Recorder()
        processor = BatchProcessor(node, hedge=Hedge(after=2.0), instruments=[recorder], **QUICK)
        async for result in processor.batch_as_completed([0]):
            assert (result.output, result.attempts) == (1, 2)
            assert node.ends == [(0, 1, "ok"), (0, 2, "cancelled")]
        assert recorder.hedges == [(0, 2, "lost")]
        assert asyncio.get_running_loop().time() == pytest.approx(3, abs=0.01)

    run_virtual(main())


def test_hedging_after_p90_removes_the_tail(run_virtual: Run) -> None:
    def takes(x: int, attempt: int) -> float:
        return 30.0 if x % 25 == 24 and attempt == 1 else 1.0 + x % 7 / 100

    plain = run_virtual(BatchProcessor(Service(takes), 10, **QUICK).batch(range(1000)))
    node = Service(takes)
    hedged = run_virtual(BatchProcessor(node, 10, hedge=Hedge("p90"), **QUICK).batch(range(1000)))
    assert sum(r.execution_time > 29 for r in plain) == 40
    assert sum(r.execution_time > 3 for r in hedged) <= 2, "stragglers before p90 was known"
    assert 30 <= len(node.began) - 1000 <= 101
    assert {r.attempts for r in hedged} == {1, 2}


def test_item_that_runs_as_the_quantile_becomes_known_is_hedged(run_virtual: Run) -> None:
    node = Service(lambda x, attempt: 60.0 if (x, attempt) == (20, 1) else 1.0)
    results = run_virtual(BatchProcessor(node, 21, hedge=Hedge("p90", minimum=20), **QUICK).batch(range(21)))
    assert (results[20].output, results[20].execution_time) == (2, pytest.approx(3, abs=0.1))


def test_hedged_items_count_with_their_whole_time(run_virtual: Run) -> None:
    """With their hedge's time alone, ever more items would be hedged where one in five is slow."""
    node = Service(lambda x, attempt: 60.0 if x >= 20 and x % 5 == 0 and attempt == 1 else 1.0)
    results = run_virtual(BatchProcessor(node, 10, hedge=Hedge("p90", share=1.0), **QUICK).batch(range(400)))
    slow = [round(r.execution_time) for r in results if r.index >= 20 and r.index % 5 == 0]
    assert slow == sorted(slow)
    assert (slow[0], slow[-1]) == (2, 4)


def test_hedges_stay_within_the_share_of_items_and_of_slots(run_virtual: Run) -> None:
    most = 0

    class Slow(Service):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            nonlocal most
            most = max(most, self.running + 1)
            return await super().execute(node_context, workflow_context)

    node = Slow(lambda x, attempt: 10.0)
    run_virtual(BatchProcessor(node, 20, hedge=Hedge(after=1.0, share=0.1), **QUICK).batch(range(400)))
    assert 400 < len(node.began) <= 400 + 41
    assert most <= 20 + 2

    node = Slow(lambda x, attempt: {1: 10.0, 2: 0.01}[attempt])  # short hedges never wait for each other
    run_virtual(BatchProcessor(node, 20, hedge=Hedge(after=1.0, share=0.1), **QUICK).batch(range(400)))
    assert 430 <= len(node.began) <= 400 + 41


def test_hedge_cancelled_before_it_began_takes_nothing_of_the_share(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        tries.append(x)
        if x < 2:  # ends in the turn of the loop in which it is hedged
            loop, end = asyncio.get_running_loop(), asyncio.Event()
            loop.call_at(loop.time() + 2.0 - 5e-10, end.set)
            await end.wait()
        else:
            await asyncio.sleep(60 if tries.count(x) == 1 else 1)
        return x

    tries: list[int] = []
    results = run_virtual(BatchProcessor(node, 1, hedge=Hedge(after=2.0, share=0.001), **QUICK).batch(range(3)))
    assert [(r.output, r.attempts) for r in results] == [(0, 1), (1, 1), (2, 2)]


def test_failed_attempt_waits_for_its_hedge(run_virtual: Run) -> None:
    node, recorder = Service(lambda x, attempt: 3.0, lambda x, attempt: attempt == 1), Recorder()
    (result,) = run_virtual(BatchProcessor(node, hedge=Hedge(after=2.0), instruments=[recorder], **QUICK).batch([0]))
    assert (result.status, result.output, result.attempts, result.error) == ("ok", 2, 2, None)
    assert recorder.hedges == [(0, 2, "won")]


def test_first_attempt_s_error_stands_and_is_retried_if_all_fail(run_virtual: Run) -> None:
    recorder = Recorder()
    node = Service(lambda x, attempt: 3.0, lambda x, attempt: True)
    (result,) = run_virtual(BatchProcessor(node, hedge=Hedge(after=2.0), instruments=[recorder], **QUICK).batch([0]))
    assert (result.status, result.error, result.attempts) == ("failed", "attempt 1", 2)
    assert recorder.hedges == [(0, 2, "failed")]

    node = Service(lambda x, attempt: 3.0 if attempt < 3 else 1.0, lambda x, attempt: attempt < 4)
    retry = RetryPolicy(3, wait=lambda _: 1.0)
    (result,) = run_virtual(BatchProcessor(node, hedge=Hedge(after=2.0), retry=retry, **QUICK).batch([0]))
    assert (result.status, result.output, result.attempts) == ("ok", 4, 4), "a hedge is not an attempt of the policy"


def test_failed_hedge_leaves_the_first_attempt_running(run_virtual: Run) -> None:
    node = Service(lambda x, attempt: {1: 10.0, 2: 1.0}[attempt], lambda x, attempt: attempt == 2)
    (result,) = run_virtual(BatchProcessor(node, hedge=Hedge(after=2.0), **QUICK).batch([0]))
    assert (result.output, result.attempts) == (1, 2)


def test_item_gets_as_many_hedges_as_configured(run_virtual: Run) -> None:
    node, recorder = Service(lambda x, attempt: {1: 60.0, 2: 60.0, 3: 1.0}[attempt]), Recorder()
    hedge = Hedge(after=2.0, most=2, share=1.0)
    (result,) = run_virtual(BatchProcessor(node, 4, hedge=hedge, instruments=[recorder], **QUICK).batch([0]))
    assert (result.output, result.attempts) == (3, 3)
    assert sorted(recorder.hedges) == [(0, 2, "lost"), (0, 3, "won")]
    assert sorted(node.ends) == [(0, 1, "cancelled"), (0, 2, "cancelled"), (0, 3, "ok")]


def test_item_timeout_cancels_the_hedge_too(run_virtual: Run) -> None:
    node, recorder = Service(lambda x, attempt: 60.0), Recorder()
    processor = BatchProcessor(node, 2, item_timeout=5, hedge=Hedge(after=2.0), instruments=[recorder], **QUICK)
    results = run_virtual(processor.batch([0]))
    assert (results[0].status, results[0].attempts) == ("timed_out", 2)
    assert sorted(node.ends) == [(0, 1, "cancelled"), (0, 2, "cancelled")]
    assert recorder.hedges == [(0, 2, "lost")]


def test_item_timeout_holds_while_a_failed_attempt_waits_for_its_hedge(run_virtual: Run) -> None:
    node = Service(lambda x, attempt: {1: 3.0, 2: 60.0}[attempt], lambda x, attempt: True)
    processor = BatchProcessor(node, 2, item_timeout=5, hedge=Hedge(after=2.0), **QUICK)
    (result,) = run_virtual(processor.batch([0]))
    assert result.status == "timed_out"
    assert result.execution_time == pytest.approx(5, abs=0.1)
    assert node.running == 0


@pytest.mark.parametrize("moment", [0.5, 2.5, 3.0, 3.001, 3.5])
def test_cancelled_caller_leaves_no_attempt_running(moment: float, run_virtual: Run) -> None:
    async def main() -> None:
        node = Service(lambda x, attempt: {1: 3.0, 2: 1.0}[attempt] if x == 0 else 3.5)
        processor = BatchProcessor(node, 3, hedge=Hedge(after=2.0), **QUICK)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(processor.batch(range(30)), moment)
        assert node.running == 0
        assert len(node.began) == len(node.ends)

    run_virtual(main())


def test_first_attempt_that_lost_and_ignores_cancellation_is_abandoned(
    run_virtual: Run,
) -> None:
    async def main() -> None:
        node = ScriptedNode(returns("second"), items={0: [hangs(stubborn_for=60), returns("second")]})
        processor = BatchProcessor(node, 1, hedge=Hedge(after=2.0), **QUICK)
        results = await processor.batch([1, 2])
        assert [(r.status, r.output) for r in results] == [("ok", "second"), ("ok", "second")]
        assert asyncio.get_running_loop().time() == pytest.approx(7, abs=0.1)
        await asyncio.sleep(100)

    run_virtual(main())


def test_hedge_that_lost_and_ignores_cancellation_is_abandoned(run_virtual: Run) -> None:
    async def main() -> None:
        node = ScriptedNode(sleeps(3, then=returns("first")), hangs(stubborn_for=60))
        (result,) = await BatchProcessor(node, 1, hedge=Hedge(after=2.0), **QUICK).batch([1])
        assert (result.status, result.output) == ("ok", "first")
        assert asyncio.get_running_loop().time() == pytest.approx(8, abs=0.1)
        await asyncio.sleep(100)

    run_virtual(main())


@pytest.mark.parametrize("limit", ["item_timeout", "batch_timeout"])
def test_time_limit_holds_while_a_hedge_that_lost_ends(limit: str, run_virtual: Run) -> None:
    """An item ends with the last of its attempts, and is over its limit if that is."""

    async def node(x: int) -> None:
        tries.append(x)
        if len(tries) == 1:
            await asyncio.sleep(3)
            return
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(2)

    async def main() -> tuple[str, float]:
        settings: dict[str, Any] = {limit: 4.0, **QUICK}
        (result,) = await BatchProcessor(node, 1, hedge=Hedge(after=2.0), **settings).batch([0])
        return result.status, asyncio.get_running_loop().time()

    tries: list[int] = []
    assert run_virtual(main()) == ("timed_out" if limit == "item_timeout" else "cancelled", pytest.approx(5, abs=0.1))


def test_system_exit_in_a_hedge_ends_the_batch(run_virtual: Run) -> None:
    class Ends(Service):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            if node_context.attempt == 2:
                raise SystemExit(3)
            return await super().execute(node_context, workflow_context)

    async def main() -> None:
        node = Ends(lambda x, attempt: 60.0)
        with pytest.raises(SystemExit):
            await BatchProcessor(node, 2, hedge=Hedge(after=2.0), **QUICK).batch(range(4))
        assert node.running == 0

    run_virtual(main())


def test_hedge_pays_the_rate_and_is_skipped_if_it_had_to_wait(run_virtual: Run) -> None:
    node = Service(lambda x, attempt: 5.0)
    limit = RateLimit(2, per=100, burst=2)
    results = run_virtual(BatchProcessor(node, 1, hedge=Hedge(after=2.0), rate_limit=limit, **QUICK).batch([0]))
    assert results[0].attempts == 2
    assert limit.window.used == 2_000_000
    limit = RateLimit(1, per=100)
    results = run_virtual(BatchProcessor(node, 1, hedge=Hedge(after=2.0), rate_limit=limit, **QUICK).batch([0]))
    assert results[0].attempts == 1


def test_hedge_that_the_rate_refuses_takes_nothing_of_the_share(run_virtual: Run) -> None:
    node = Service(lambda x, attempt: {1: 60.0, 2: 1.0}[attempt])
    settings: dict[str, Any] = {"hedge": Hedge(after=2.0, share=0.001), "rate_limit": RateLimit(1, per=5)}
    (result,) = run_virtual(BatchProcessor(node, 1, **settings, **QUICK).batch([0]))
    assert [round(at) for at, _, _ in node.began] == [0, 6], "asked at 2 s and 4 s in vain"
    assert (result.output, result.attempts) == (2, 2)


def test_reported_cost_is_that_of_the_winning_hedge(run_virtual: Run) -> None:
    async def node(x: int) -> NodeResult:
        tries.append(x)
        await asyncio.sleep(60 if len(tries) == 1 else 1)
        return NodeResult(True, x, metadata={"tokens": 10})

    async def main() -> int:
        limit = RateLimit(100, per=2.5, burst=100, cost=lambda _: 50, actual="tokens")
        await BatchProcessor(node, 1, hedge=Hedge(after=2.0), rate_limit=limit, **QUICK).batch([0])
        limit.window.fits(0, 3_000_000_000)  # the first attempt's cost has left the window
        return limit.window.used

    tries: list[int] = []
    assert run_virtual(main()) == 10_000_000


def test_open_circuit_starts_no_hedge(run_virtual: Run) -> None:
    async def main() -> None:
        breaker = CircuitBreaker(minimum=1)
        node = Service(lambda x, attempt: 5.0)
        asyncio.get_running_loop().call_later(1, breaker.record, 2, 1, False)
        (result,) = await BatchProcessor(node, 1, hedge=Hedge(after=2.0), breaker=breaker, **QUICK).batch([0])
        assert result.attempts == 1

    run_virtual(main())


def test_hedging_a_blocking_function_is_refused() -> None:
    with pytest.raises(ValueError, match="make it an `async def`"):
        BatchProcessor(lambda x: x, hedge=Hedge())
    with pytest.raises(TypeError, match="hedge must be a Hedge"):
        BatchProcessor(Service(first_of_0_is_slow), hedge="p95")  # type: ignore[arg-type]


def test_coroutines_in_threads_are_hedged_too() -> None:
    async def node(x: int) -> int:
        tries.append(x)
        await asyncio.sleep(30 if len(tries) == 1 else 0)
        return len(tries)

    async def main() -> None:
        processor = BatchProcessor(node, 1, executor="threads", hedge=Hedge(after=0.05), **QUICK)
        (result,) = await asyncio.wait_for(processor.batch([0]), 20)
        assert (result.output, result.attempts) == (2, 2)

    tries: list[int] = []
    run_on(asyncio.SelectorEventLoop, main())


def test_idle_batch_does_not_poll_for_stragglers(run_virtual: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        node = Service(lambda x, attempt: 0.01, lambda x, attempt: attempt == 1)
        processor = BatchProcessor(node, hedge=Hedge(after=0.05), retry=RetryPolicy(wait=lambda _: 3600.0), **QUICK)
        turns = 0
        run_once = loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            nonlocal turns
            turns += 1
            run_once()

        loop._run_once = counted  # type: ignore[attr-defined]
        await processor.batch([0])
        assert loop.time() > 3600
        assert turns < 2_000, "polling every 50 ms would take 72,000"

    run_virtual(main())


@settings(max_examples=examples(150), deadline=None)
@given(
    takes=st.lists(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), max_size=15),
    fails=st.sets(st.tuples(st.integers(0, 14), st.integers(1, 3))),
    c=st.integers(1, 4),
    most=st.integers(1, 2),
    timeout=st.none() | st.floats(0.5, 8),
)
def test_hedged_items_end_once_and_leave_no_attempt_running(
    takes: list[list[float]], fails: set[tuple[int, int]], c: int, most: int, timeout: float | None
) -> None:
    node = Service(lambda x, attempt: takes[x][attempt - 1], lambda x, attempt: (x, attempt) in fails)
    recorder = Recorder()
    hedge = Hedge(after=1.0, most=most, share=1.0)
    processor = BatchProcessor(node, c, hedge=hedge, item_timeout=timeout, instruments=[recorder], **QUICK)
    results = run_virtual(processor.batch(range(len(takes))))
    assert [r.index for r in results] == list(range(len(takes)))
    assert node.running == 0
    began = Counter(x for _, x, _ in node.began)
    ok = {(x, attempt) for x, attempt, end in node.ends if end == "ok"}
    assert sum(r.attempts for r in results) == len(node.began) == len(node.ends) == len(takes) + len(recorder.hedges)
    for result in results:
        assert result.attempts == began[result.index]
        assert result.success == (result.status == "ok")
        if result.success:
            assert (result.index, result.output) in ok
        outcomes = Counter(outcome for x, _, outcome in recorder.hedges if x == result.index)
        assert outcomes["won"] == (result.success and result.output > 1)


@pytest.mark.parametrize("stubborn", [False, True])
def test_hedged_item_is_journaled_once_with_all_its_attempts(stubborn: bool, run_virtual: Run, tmp_path: Path) -> None:
    tries: list[int] = []

    async def node(x: int) -> int:
        tries.append(x)
        while len(tries) == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if not stubborn or asyncio.get_running_loop().time() > 50:
                    raise
        return 10 * x

    async def main() -> list[tuple[str, Any, int]]:
        processor = BatchProcessor(node, 2, hedge=Hedge(after=2.0), journal=tmp_path / "journal", **QUICK)
        results = await processor.batch(range(3))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if task.get_name() == "node":  # the abandoned attempt
                await asyncio.sleep(100)
                task.cancel()
        return [(r.status, r.output, r.attempts) for r in results]

    assert run_virtual(main()) == [("ok", 0, 2), ("ok", 10, 1), ("ok", 20, 1)]
    assert len(tries) == 4
    assert run_virtual(main()) == [("resumed", 0, 2), ("resumed", 10, 1), ("resumed", 20, 1)]
    assert len(tries) == 4
