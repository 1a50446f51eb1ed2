"""Policy pipeline of a batch, in virtual time: retries, rate limits, adaptive limits and circuit breakers."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrt import (
    AdaptiveLimit,
    BatchProcessor,
    CircuitBreaker,
    Hedge,
    Instrument,
    ItemRecord,
    NodeResult,
    RateLimit,
    Rejected,
    RetryPolicy,
)
from flowrt.engine.batch_run import active_batches
from flowrt.policies import CircuitOpenError
from flowrt.testing import run_virtual
from tests.examples import examples

Run = Callable[[Any], Any]
NO_JITTER = {"wait": lambda state: float(state.attempt_number)}  # 1 s, 2 s, 3 s


class Flaky:
    """Node that fails the first attempts at an item and records when each attempt started.

    Args:
        failures: Number of failing attempts by item.
        takes_s: Duration of an attempt, in seconds.
    """

    def __init__(self, failures: dict[int, int], takes_s: float = 1.0) -> None:
        self.failures = dict(failures)
        self.takes_s = takes_s
        self.began: list[tuple[float, int]] = []
        self.running = self.most = 0

    async def __call__(self, x: int) -> int:
        self.began.append((asyncio.get_running_loop().time(), x))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.running -= 1
        if self.failures.get(x, 0) > 0:
            self.failures[x] -= 1
            raise ConnectionError(f"not yet {x}")
        return 10 * x


class Recorder(Instrument):
    """Instrument that records the hooks called, with index, attempts and status or retry reason."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int, str]] = []

    def item_started(self, item: ItemRecord) -> None:
        self.log.append(("started", item.index, item.attempts, item.status))

    def attempt_started(self, item: ItemRecord) -> None:
        self.log.append(("attempt", item.index, item.attempts, item.status))

    def attempt_ended(self, item: ItemRecord) -> None:
        self.log.append(("ended", item.index, item.attempts, item.status))

    def retry_scheduled(self, item: ItemRecord) -> None:
        self.log.append(("retry", item.index, item.attempts, item.retry.reason))

    def item_finished(self, item: ItemRecord) -> None:
        self.log.append(("finished", item.index, item.attempts, item.status))


def test_failed_item_is_retried_after_its_backoff_as_others_use_its_slot(run_virtual: Run) -> None:
    node, recorder = Flaky({0: 2}), Recorder()
    processor = BatchProcessor(node, 1, retry=RetryPolicy(**NO_JITTER), telemetry=False, instruments=[recorder])
    results = run_virtual(processor.batch(range(5)))
    assert [(r.output, r.attempts) for r in results] == [(0, 3), (10, 1), (20, 1), (30, 1), (40, 1)]
    assert node.began == [(0, 0), (1, 1), (2, 0), (3, 2), (4, 3), (5, 0), (6, 4)]
    assert node.most == 1
    assert results[0].execution_time == pytest.approx(1)
    assert [event for event in recorder.log if event[1] == 0] == [
        ("started", 0, 0, "running"),
        ("ended", 0, 1, "failed"),
        ("retry", 0, 1, "error"),
        ("attempt", 0, 1, "running"),
        ("ended", 0, 2, "failed"),
        ("retry", 0, 2, "error"),
        ("attempt", 0, 2, "running"),
        ("ended", 0, 3, "ok"),
        ("finished", 0, 3, "ok"),
    ]


def test_item_out_of_attempts_keeps_its_last_error(run_virtual: Run) -> None:
    processor = BatchProcessor(Flaky({1: 9}), 2, retry=RetryPolicy(3, **NO_JITTER), telemetry=False)
    results = run_virtual(processor.batch(range(3)))
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    assert (results[1].attempts, results[1].error, results[1].error_type) == (3, "not yet 1", "ConnectionError")
    assert isinstance(results[1].exception, ConnectionError)


def test_success_after_failures_clears_their_errors(run_virtual: Run) -> None:
    async def node(x: int) -> NodeResult:
        return NodeResult(bool(seen.append(x)) or len(seen) > 1, x, error="bad luck", metadata={"try": len(seen)})

    seen: list[int] = []
    (result,) = run_virtual(BatchProcessor(node, retry=RetryPolicy(**NO_JITTER), telemetry=False).batch([7]))
    assert (result.status, result.error, result.error_type, result.exception) == ("ok", None, None, None)
    assert (result.output, result.metadata, result.attempts) == (7, {"try": 2}, 2)


def test_timed_out_item_is_retried_and_its_backoff_spends_no_time_limit(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        tries.append(asyncio.get_running_loop().time())
        await asyncio.sleep(10 if len(tries) == 1 else 1)
        return x

    tries: list[float] = []
    retry = RetryPolicy(wait=lambda _: 60.0)
    (result,) = run_virtual(BatchProcessor(node, item_timeout=2, retry=retry, telemetry=False).batch([1]))
    assert (result.status, result.attempts) == ("ok", 2)
    assert tries == [0, pytest.approx(62, abs=0.1)]


def test_items_in_backoff_hold_no_permit_of_a_stream(run_virtual: Run) -> None:
    async def main() -> list[int]:
        node = Flaky({0: 1})
        processor = BatchProcessor(node, 2, retry=RetryPolicy(wait=lambda _: 100.0), telemetry=False)
        order = [result.index async for result in processor.batch_as_completed(range(20))]
        assert asyncio.get_running_loop().time() < 105
        return order

    assert run_virtual(main()) == [*range(1, 20), 0]


def test_items_in_backoff_are_bounded_and_then_hold_back_admission(run_virtual: Run) -> None:
    node = Flaky(dict.fromkeys(range(100), 1), takes_s=0.01)
    retry = RetryPolicy(wait=lambda _: 50.0, waiting=5, budget=None)
    results = run_virtual(BatchProcessor(node, 2, retry=retry, telemetry=False).batch(range(12)))
    assert all(r.success for r in results)
    early = [x for at, x in node.began if at < 50]
    assert len(early) <= 5 + 2, "at most the bound on backoff and the slots are started"


def test_retry_storm_stops_at_the_budget(run_virtual: Run) -> None:
    node = Flaky(dict.fromkeys(range(1_000), 99), takes_s=0.001)
    retry = RetryPolicy(10, wait=lambda _: 0.01, budget=0.1, budget_minimum=5)
    results = run_virtual(BatchProcessor(node, 10, retry=retry, telemetry=False).batch(range(1_000)))
    assert {r.status for r in results} == {"failed"}
    assert 1_000 < len(node.began) <= 1_000 + 105


def test_error_in_a_policy_function_fails_the_item(run_virtual: Run) -> None:
    def broken(_: Any) -> bool:
        raise KeyError("in the policy")

    (result,) = run_virtual(BatchProcessor(Flaky({0: 1}), retry=RetryPolicy(on=broken), telemetry=False).batch([0]))
    assert (result.status, result.error_type) == ("failed", "KeyError")
    assert isinstance(result.exception.__context__, ConnectionError)


def test_cancelled_error_raised_by_the_node_is_retried_by_default(run_virtual: Run) -> None:
    def judge(result: NodeResult) -> bool:
        judged.append(result.output)
        return False

    async def node(x: int) -> int:
        if x == 1:
            raise asyncio.CancelledError
        return x

    judged: list[int] = []
    results = run_virtual(BatchProcessor(node, 1, retry=RetryPolicy(when=judge), telemetry=False).batch(range(3)))
    assert judged == [0, 2]
    results = run_virtual(BatchProcessor(node, 1, retry=RetryPolicy(), telemetry=False).batch(range(3)))
    assert [(r.status, r.error_type, r.attempts) for r in results] == [
        ("ok", None, 1),
        ("failed", "CancelledError", 3),
        ("ok", None, 1),
    ]


def test_batch_timeout_cancels_items_in_backoff_and_names_their_error(run_virtual: Run) -> None:
    retry = RetryPolicy(wait=lambda _: 100.0)
    processor = BatchProcessor(Flaky({0: 1}), 2, batch_timeout=10, retry=retry, telemetry=False)
    results = run_virtual(processor.batch(range(3)))
    assert [r.status for r in results] == ["cancelled", "ok", "ok"]
    assert "batch_timeout=10" in results[0].error
    assert "attempt 1 ended in ConnectionError: not yet 0" in results[0].error
    assert results[0].attempts == 1


def test_first_final_failure_stops_the_batch_and_cancels_backoff(run_virtual: Run) -> None:
    async def main() -> None:
        node = Flaky({0: 1, 5: 9}, takes_s=1)
        recorder = Recorder()
        retry = RetryPolicy(2, wait=lambda state: 100.0 if node.failures[0] == 0 and node.failures[5] == 9 else 0.0)
        processor = BatchProcessor(node, 2, False, retry=retry, telemetry=False, instruments=[recorder])
        with pytest.raises(ConnectionError, match="not yet 5"):
            await processor.batch(range(50))
        ends = Counter(index for what, index, *_ in recorder.log if what == "finished")
        started = {index for what, index, *_ in recorder.log if what == "started"}
        assert set(ends) == started
        assert set(ends.values()) == {1}
        assert ("finished", 0, 1, "cancelled") in recorder.log

    run_virtual(main())


def test_cancelled_caller_leaves_nothing_in_backoff(run_virtual: Run) -> None:
    async def main() -> None:
        recorder = Recorder()
        processor = BatchProcessor(
            Flaky({0: 1}), retry=RetryPolicy(wait=lambda _: 100.0), telemetry=False, instruments=[recorder]
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(processor.batch([0]), 5)
        assert recorder.log[-1] == ("finished", 0, 1, "cancelled")
        assert asyncio.get_running_loop().time() == pytest.approx(5)

    run_virtual(main())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_slow_async_source_does_not_delay_ready_retries(concurrency: int, run_virtual: Run) -> None:
    async def slow() -> AsyncIterator[int]:
        for x in range(4):
            yield x
            await asyncio.sleep(100)

    node = Flaky({0: 2})
    results = run_virtual(
        BatchProcessor(node, concurrency, retry=RetryPolicy(**NO_JITTER), telemetry=False).batch(slow())
    )
    assert [(r.index, r.output, r.attempts) for r in results] == [(0, 0, 3), (1, 10, 1), (2, 20, 1), (3, 30, 1)]
    assert [at for at, x in node.began if x == 0] == [0, 2, 5]
    assert [at for at, x in node.began if x == 1] == [101 if concurrency == 1 else 100]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_source_error_is_raised_after_the_started_items_have_ended(kind: str, run_virtual: Run) -> None:
    def inputs() -> Any:
        yield from range(3)
        raise OSError("source")

    async def awaited() -> AsyncIterator[int]:
        for x in range(3):
            yield x
        raise OSError("source")

    async def main() -> None:
        recorder = Recorder()
        processor = BatchProcessor(
            Flaky({1: 1}), 2, retry=RetryPolicy(**NO_JITTER), telemetry=False, instruments=[recorder]
        )
        with pytest.raises(OSError, match="source"):
            await processor.batch(inputs() if kind == "sync" else awaited())
        assert sorted(line[1:] for line in recorder.log if line[0] == "finished") == [
            (0, 1, "ok"),
            (1, 2, "ok"),
            (2, 1, "ok"),
        ]

    run_virtual(main())


def test_async_source_fills_every_slot_while_items_are_in_backoff(run_virtual: Run) -> None:
    async def inputs() -> AsyncIterator[int]:
        for x in range(1000):
            yield x

    node = Flaky(dict.fromkeys(range(0, 1000, 10), 1))
    policy = RetryPolicy(2, wait=lambda _: 30.0)

    async def main() -> float:
        results = await BatchProcessor(node, 10, retry=policy).batch(inputs())
        assert results.success_rate == 1
        return results.wall_time

    assert run_virtual(main()) <= 1100 / 10 + 30


def test_retries_of_a_tenth_do_not_slow_the_other_items(run_virtual: Run) -> None:
    def p99(results: list[Any]) -> float:
        healthy = sorted(r.queue_time + r.execution_time for r in results if r.index % 10)
        return healthy[math.ceil(0.99 * len(healthy)) - 1]

    plain = run_virtual(BatchProcessor(Flaky({}, 0.05), 50, telemetry=False).batch(range(1_000)))
    node = Flaky(dict.fromkeys(range(0, 1000, 10), 2), 0.05)
    retried = run_virtual(BatchProcessor(node, 50, retry=RetryPolicy(), telemetry=False).batch(range(1_000)))
    assert retried.success_rate == 1
    assert p99(retried) <= 1.1 * p99(plain)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_slot_is_filled_again_after_backoff_was_full(kind: str, run_virtual: Run) -> None:
    async def awaited() -> AsyncIterator[int]:
        for x in range(1000):
            yield x

    node = Flaky(dict.fromkeys(range(10), 1))
    policy = RetryPolicy(2, budget=None, waiting=10, wait=lambda _: 5.0)
    inputs: Any = range(1000) if kind == "sync" else awaited()
    results = run_virtual(BatchProcessor(node, 100, retry=policy, telemetry=False).batch(inputs))
    assert results.success_rate == 1
    assert node.most == 100
    assert results.wall_time <= 1 + 5 + 10


def test_input_starts_once_a_retry_leaves_the_full_backoff(run_virtual: Run) -> None:
    node = Flaky({0: 1})
    retry = RetryPolicy(2, budget=None, waiting=1, wait=lambda _: 5.0)
    run_virtual(BatchProcessor(node, 2, retry=retry, telemetry=False).batch(range(4)))
    assert node.began == [(0, 0), (0, 1), (6, 0), (6, 2), (7, 3)]


def test_workers_that_all_found_backoff_full_end_with_the_batch(run_virtual: Run) -> None:
    async def main() -> list[bool]:
        retry = RetryPolicy(2, budget=None, waiting=1, wait=lambda _: 0.15)
        processor = BatchProcessor(Flaky({0: 2, 3: 2}, 0.1), 3, retry=retry, telemetry=False)
        return [result.success async for result in processor.batch_as_completed(list(range(5)))]

    assert sorted(run_virtual(asyncio.wait_for(main(), 60))) == [False, False, True, True, True]


@settings(max_examples=examples(150), deadline=None)
@given(
    failures=st.lists(st.integers(0, 4), max_size=25),
    c=st.integers(1, 5),
    attempts=st.integers(1, 4),
    waiting=st.integers(1, 3),
    kind=st.sampled_from(["list", "async"]),
    stream=st.booleans(),
)
def test_every_item_ends_once_with_as_many_attempts_as_it_needs(
    failures: list[int], c: int, attempts: int, waiting: int, kind: str, stream: bool
) -> None:
    node = Flaky(dict(enumerate(failures)), 0.1)
    retry = RetryPolicy(attempts, budget=None, waiting=waiting)
    recorder = Recorder()
    processor = BatchProcessor(node, c, retry=retry, telemetry=False, instruments=[recorder])

    async def delayed_inputs() -> AsyncIterator[int]:
        for x in range(len(failures)):
            if x % 3 == 0:
                await asyncio.sleep(0.05)
            yield x

    async def main() -> list[Any]:
        inputs = delayed_inputs() if kind == "async" else list(range(len(failures)))
        if not stream:
            return await processor.batch(inputs)
        return sorted([r async for r in processor.batch_as_completed(inputs)], key=lambda r: r.index)

    results = run_virtual(main())
    assert [r.index for r in results] == list(range(len(failures)))
    assert [r.attempts for r in results] == [min(attempts, failed + 1) for failed in failures]
    assert [r.success for r in results] == [failed < attempts for failed in failures]
    assert node.most <= c
    assert Counter(line[1] for line in recorder.log if line[0] == "finished") == Counter(range(len(failures)))


# -- rate limits ---------------------------------------------------------------------------------------------------


def test_no_window_has_more_starts_than_the_rate(run_virtual: Run) -> None:
    node = Flaky({}, 0.5)
    processor = BatchProcessor(node, 50, rate_limit=RateLimit(10, per=1, burst=10), telemetry=False)
    results = run_virtual(processor.batch(range(100)))
    starts = sorted(at for at, _ in node.began)
    assert all(later - earlier >= 1 - 1e-9 for earlier, later in zip(starts, starts[10:], strict=False))
    assert starts[-1] == pytest.approx(9, abs=0.2)
    assert results.success_rate == 1
    assert results[99].queue_time == pytest.approx(4.5), "pulled at 4.5 s, as the items that began at 4 s ended"


def test_retries_pay_the_rate_and_waiting_spends_no_item_timeout(run_virtual: Run) -> None:
    node = Flaky({0: 1}, 0.5)
    processor = BatchProcessor(
        node,
        5,
        item_timeout=0.8,
        retry=RetryPolicy(wait=lambda _: 0.0),
        rate_limit=RateLimit(1, per=10),
        telemetry=False,
    )
    results = run_virtual(processor.batch(range(3)))
    assert results.success_rate == 1
    assert sorted(at for at, _ in node.began) == [0, 10, 20, 30]


def test_item_whose_cost_never_fits_fails_at_once_without_a_retry(run_virtual: Run) -> None:
    tokens = RateLimit(100, per=60, cost=lambda item: item)
    processor = BatchProcessor(Flaky({}), 2, rate_limit=tokens, retry=RetryPolicy(), telemetry=False)
    results = run_virtual(processor.batch([10, 101, 20]))
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    assert (results[1].attempts, results[1].error_type) == (0, "CostTooHighError")
    assert "101" in results[1].error


def test_rejected_input_pays_no_rate_and_is_not_retried(run_virtual: Run) -> None:
    tokens = RateLimit(10, per=60, burst=10, cost=lambda item: len(item["text"]))
    processor = BatchProcessor(
        Flaky({}), 1, item_timeout=1, rate_limit=tokens, retry=RetryPolicy(), hedge=Hedge(), telemetry=False
    )

    async def main() -> tuple[Any, Any]:
        results = await processor.batch([Rejected("no JSON", "Malformed", "{")] * 20)
        return results, await processor.retry_failed(results)

    for results in run_virtual(main()):
        assert len(results) == 20
        assert {(r.status, r.error, r.error_type, r.input_data, r.attempts) for r in results} == {
            ("failed", "no JSON", "Malformed", "{", 0)
        }


@pytest.mark.parametrize("cost", [len, lambda _: math.nan], ids=["raises", "not a number"])
def test_item_whose_cost_cannot_be_computed_is_not_retried(run_virtual: Run, cost: Any) -> None:
    async def main() -> Any:
        retry = RetryPolicy(budget=None, wait=lambda _: 1.0)
        processor = BatchProcessor(Flaky({}), 1, rate_limit=RateLimit(100, cost=cost), retry=retry, telemetry=False)
        return await asyncio.wait_for(processor.batch([7]), 3600)

    (result,) = run_virtual(main())
    assert (result.status, result.attempts) == ("failed", 0)
    assert result.error_type in ("TypeError", "ValueError")


def test_reported_cost_replaces_the_estimate(run_virtual: Run) -> None:
    starts: list[float] = []

    async def node(x: int) -> NodeResult:
        starts.append(asyncio.get_running_loop().time())
        return NodeResult(True, x, metadata={"tokens": 10})

    tokens = RateLimit(100, per=60, burst=100, cost=lambda _: 50, actual="tokens")
    run_virtual(BatchProcessor(node, 1, rate_limit=tokens, telemetry=False).batch(range(6)))
    assert starts == [0.0] * 6, "50 were reserved for each, 10 were used"


@pytest.mark.parametrize("actual", ["tokens", lambda metadata: metadata["tokens"]], ids=["key", "function"])
def test_attempt_without_a_readable_cost_pays_its_estimate(actual: Any, run_virtual: Run) -> None:
    starts: list[float] = []

    async def node(x: int) -> NodeResult:
        starts.append(asyncio.get_running_loop().time())
        if x == 0:
            raise ConnectionError("no usage")
        if x == 1:
            await asyncio.sleep(10)
        return NodeResult(True, x, metadata=["tokens"] if x == 2 else {"tokens": 0})  # type: ignore[arg-type]

    tokens = RateLimit(100, per=60, burst=100, cost=lambda _: 25, actual=actual)
    results = run_virtual(BatchProcessor(node, 1, item_timeout=5, rate_limit=tokens, telemetry=False).batch(range(6)))
    assert [r.status for r in results] == ["failed", "timed_out", "ok", "ok", "ok", "ok"]
    assert starts == [0, 0, 5, 5, 5, 5], "three estimates stay charged, the fourth is refunded each time"


# -- concurrency limits --------------------------------------------------------------------------------------------


def test_limit_of_a_running_batch_can_be_raised_and_lowered(run_virtual: Run) -> None:
    node = Flaky({}, 1)
    processor = BatchProcessor(node, 2, telemetry=False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(2.5, processor.set_max_concurrency, 6)
        loop.call_at(4.5, processor.set_max_concurrency, 1)
        await processor.batch(range(30))

    run_virtual(main())
    running = Counter(int(at) for at, _ in node.began)
    assert [running[second] for second in range(4)] == [2, 2, 6, 6]
    assert running[6] == running[7] == 1
    assert processor.max_concurrency == 1
    with pytest.raises(ValueError, match="max_concurrency"):
        processor.set_max_concurrency(0)


def test_ready_retry_under_a_lowered_limit_waits_for_no_input(run_virtual: Run) -> None:
    node = Flaky({0: 2, 1: 1})
    recorder = Recorder()

    async def inputs() -> AsyncIterator[int]:
        yield 0
        yield 1
        # the next inputs depend on a first result
        while not [line for line in recorder.log if line[0] == "finished"]:
            await asyncio.sleep(1)
        yield 2
        yield 3

    async def main() -> None:
        retry = RetryPolicy(3, budget=None, wait=lambda _: 1.0)
        processor = BatchProcessor(node, 3, retry=retry, telemetry=False, instruments=[recorder])
        asyncio.get_running_loop().call_later(0.5, processor.set_max_concurrency, 1)
        results = await asyncio.wait_for(processor.batch(inputs()), 60)
        assert [result.attempts for result in results] == [3, 2, 1, 1]
        assert node.most == 2
        assert max(Counter(at for at, x in node.began if x > 1).values()) == 1

    run_virtual(main())


def test_slot_that_leaves_passes_its_awaited_permit_to_the_next(run_virtual: Run) -> None:
    node = Flaky({})

    async def main() -> None:
        processor = BatchProcessor(node, 3, telemetry=False)
        async with processor.batch_as_completed(range(9)) as stream:
            await anext(stream)
            await asyncio.sleep(10)  # results hold every permit
            began = len(node.began)
            processor.set_max_concurrency(2)
            await anext(stream)
            await asyncio.sleep(10)
            assert len(node.began) == began + 1

    run_virtual(main())


def test_adaptive_limit_converges_within_its_bounds(run_virtual: Run) -> None:
    changes: list[tuple[int, int]] = []

    class Watch(Instrument):
        def limit_changed(self, batch: Any) -> None:
            changes.append((batch.limit_change.old, batch.limit))

    busy = 0

    async def service(x: int) -> int:
        nonlocal busy
        busy += 1
        await asyncio.sleep(0.05 * max(1.0, busy / 8))
        busy -= 1
        return x

    processor = BatchProcessor(service, AdaptiveLimit(1, 64), telemetry=False, instruments=[Watch()])
    results = run_virtual(processor.batch(range(5_000)))
    assert results.success_rate == 1
    assert [old for old, _ in changes[1:]] == [new for _, new in changes[:-1]]
    limits = [new for _, new in changes]
    assert 1 <= min(limits) < max(limits) <= 64
    converged = limits[len(limits) // 2 :]
    assert 4 <= sum(converged) / len(converged) <= 20, "the service handles 8 requests at once"


def test_items_that_wait_for_a_rate_limit_do_not_raise_an_adaptive_limit(run_virtual: Run) -> None:
    limits: list[int] = []

    class Watch(Instrument):
        def limit_changed(self, batch: Any) -> None:
            limits.append(batch.limit)

    settings: dict[str, Any] = {"rate_limit": RateLimit(10, per=1, burst=1), "instruments": [Watch()]}
    run_virtual(BatchProcessor(Flaky({}, 0.05), AdaptiveLimit(1, 64), telemetry=False, **settings).batch(range(200)))
    assert limits == [2], "one at a time runs, whatever the limit"


# -- circuit breakers ----------------------------------------------------------------------------------------------


def test_open_circuit_fails_items_without_an_attempt(run_virtual: Run) -> None:
    node = Flaky(dict.fromkeys(range(100), 99), 0.01)
    breaker = CircuitBreaker(0.5, window=10, cooldown=1_000, minimum=5)
    results = run_virtual(BatchProcessor(node, 1, breaker=breaker, telemetry=False).batch(range(50)))
    assert len(node.began) == 5
    assert [r.attempts for r in results] == [1] * 5 + [0] * 45
    assert {r.error_type for r in results[5:]} == {"CircuitOpenError"}
    assert isinstance(results[-1].exception, CircuitOpenError)


def test_pausing_circuit_resumes_once_the_service_recovers(run_virtual: Run) -> None:
    changes: list[str] = []

    class Watch(Instrument):
        def circuit_changed(self, batch: Any) -> None:
            changes.append(batch.circuit.new)

    async def service(x: int) -> int:
        if asyncio.get_running_loop().time() < 100:
            raise ConnectionError("down")
        return x

    breaker = CircuitBreaker(0.5, window=10, cooldown=30, minimum=3, open="pause")
    processor = BatchProcessor(
        service, 4, breaker=breaker, retry=RetryPolicy(20, budget=None), telemetry=False, instruments=[Watch()]
    )
    results = run_virtual(processor.batch(range(40)))
    assert results.success_rate == 1
    assert changes[:3] == ["open", "half_open", "open"]
    assert changes[-1] == "closed"


def test_items_held_back_by_a_circuit_start_as_soon_as_it_closes(run_virtual: Run) -> None:
    node = Flaky(dict.fromkeys(range(4), 1), 1)
    breaker = CircuitBreaker(cooldown=30, minimum=4, open="pause")
    processor = BatchProcessor(node, 4, breaker=breaker, telemetry=False)

    async def main() -> None:
        await processor.batch(range(4))
        await processor.batch(range(4, 12))

    run_virtual(main())
    began = [at for at, _ in node.began]
    assert began == pytest.approx([0] * 4 + [31] + [32] * 4 + [33] * 3), "the probe ran from 31 s to 32 s"


def test_permit_of_a_cancelled_probe_goes_to_the_next_waiter(run_virtual: Run) -> None:
    node = Flaky(dict.fromkeys(range(4), 1), 1)
    breaker = CircuitBreaker(cooldown=30, minimum=4, open="pause")

    async def main() -> None:
        await BatchProcessor(node, 4, breaker=breaker, telemetry=False).batch(range(4))
        slow = asyncio.create_task(BatchProcessor(Flaky({}, 20), breaker=breaker, telemetry=False).batch([4]))
        await asyncio.sleep(1)
        quick = asyncio.create_task(BatchProcessor(node, breaker=breaker, telemetry=False).batch([5]))
        await asyncio.sleep(35)
        slow.cancel()
        await quick

    run_virtual(main())
    assert node.began[4:] == [(pytest.approx(37), 5)]


def test_error_in_the_counts_function_fails_its_item_and_counts(run_virtual: Run) -> None:
    def counts(error: Any) -> bool:
        return bool(error.status >= 500)

    node = Flaky(dict.fromkeys(range(9), 9), 0.01)
    breaker = CircuitBreaker(0.5, cooldown=1_000, minimum=3, counts=counts)
    processor = BatchProcessor(node, 1, breaker=breaker, retry=RetryPolicy(), telemetry=False)
    results = run_virtual(processor.batch(range(5)))
    assert [(r.status, r.error_type, r.attempts) for r in results] == [("failed", "AttributeError", 1)] * 3 + [
        ("failed", "CircuitOpenError", 0)
    ] * 2
    assert isinstance(results[0].exception.__context__, ConnectionError)


@pytest.mark.parametrize("first", ["rejected", "cost raises", "cancelled at the rate limit"])
def test_item_that_never_starts_returns_its_probe_permit(run_virtual: Run, first: str) -> None:
    def cost(item: int) -> float:
        if item < 0:
            raise ValueError("no cost")
        return item

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        breaker = CircuitBreaker(cooldown=30, minimum=4)
        settings: dict[str, Any] = {"breaker": breaker, "telemetry": False}
        await BatchProcessor(Flaky(dict.fromkeys(range(4), 1)), 4, **settings).batch(range(4))
        assert breaker.state == "open"
        limit = RateLimit(1, per=10, cost=cost)
        await limit.acquire(1)
        await asyncio.sleep(30)
        item: Any = {"rejected": Rejected("no JSON"), "cancelled at the rate limit": 1}.get(first, -1)
        batch = asyncio.create_task(BatchProcessor(Flaky({}), 1, rate_limit=limit, **settings).batch([item]))
        if first == "cancelled at the rate limit":
            await limit.acquire(1)
            await asyncio.sleep(1)
            assert breaker.state == "half_open"
            active_batches(loop)[0].drain("shutting down")
        await batch
        (result,) = await BatchProcessor(Flaky({}), 1, **settings).batch([0])
        assert loop.time() < 40
        return result

    assert run_virtual(main()).status == "ok"


@pytest.mark.parametrize("what", ["rate limit", "circuit"])
def test_drained_batch_does_not_wait_for_a_rate_limit_or_circuit(run_virtual: Run, what: str) -> None:
    class Refused(Flaky):
        async def __call__(self, x: int) -> int:
            if what == "circuit" and x < 4:
                raise ConnectionError(f"refused {x}")
            return await super().__call__(x)

    settings: dict[str, Any] = {"rate_limit": RateLimit(2, per=3600)}
    if what == "circuit":
        settings = {"breaker": CircuitBreaker(0.5, window=60, cooldown=3600.0, minimum=4, open="pause")}

    async def main() -> tuple[Any, float]:
        loop = asyncio.get_running_loop()
        batch = asyncio.create_task(BatchProcessor(Refused({}, 10.0), 4, telemetry=False, **settings).batch(range(9)))
        await asyncio.sleep(5.0)
        active_batches(loop)[0].drain("shutting down")
        return await batch, loop.time()

    results, ended_s = run_virtual(main())
    statuses = ["ok", "ok"] if what == "rate limit" else ["failed"] * 4
    assert [r.status for r in results] == statuses + ["cancelled"] * (9 - len(statuses))
    assert {r.error for r in results if r.status == "cancelled"} == {"not started: shutting down"}
    assert ended_s == pytest.approx(10.0 if what == "rate limit" else 5.0)


@pytest.mark.parametrize("end", ["exhausted", "broken", "broken list"])
@pytest.mark.parametrize("what", ["rate limit", "circuit"])
def test_drain_cancels_waiting_items_though_no_input_is_left(run_virtual: Run, what: str, end: str) -> None:
    class BrokenList(list[int]):
        def __iter__(self) -> Iterator[int]:
            yield from range(len(self))
            raise OSError("the source broke")

    async def node(x: int) -> int:
        if what == "circuit" and x < 2:
            raise ConnectionError
        await asyncio.sleep(10.0)
        return x

    settings: dict[str, Any] = {"rate_limit": RateLimit(2, per=3600)}
    if what == "circuit":
        settings = {"breaker": CircuitBreaker(0.5, window=60, cooldown=3600.0, minimum=2, open="pause")}
    inputs: Any = {"exhausted": range(3), "broken": iter(BrokenList([0, 1, 2])), "broken list": BrokenList([0, 1, 2])}

    async def main() -> list[str]:
        loop, recorder = asyncio.get_running_loop(), Recorder()
        for at in (5.0, 5.02):  # a shutdown drains repeatedly
            loop.call_later(at, lambda: [batch.drain("shutting down") for batch in active_batches(loop)])
        batch = BatchProcessor(node, 10, telemetry=False, instruments=[recorder], **settings).batch(inputs[end])
        with contextlib.nullcontext() if end == "exhausted" else pytest.raises(OSError, match="the source broke"):
            await batch
        assert loop.time() < 20
        return [line[3] for line in recorder.log if line[0] == "finished"]

    assert Counter(run_virtual(main())) == {"ok" if what == "rate limit" else "failed": 2, "cancelled": 1}


def test_drain_changes_nothing_once_every_item_is_in_flight(run_virtual: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.5, lambda: active_batches(loop)[0].drain("shutting down"))
        stream = BatchProcessor(Flaky({}), 3, telemetry=False).batch_as_completed(range(2))
        assert [result.status async for result in stream] == ["ok"] * 2
        assert stream.batch is not None
        assert stream.batch.status == "ok"

    run_virtual(main())


def test_drain_of_a_fail_fast_batch_cancels_nothing_in_flight(run_virtual: Run) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.call_later(5.0, lambda: active_batches(loop)[0].drain("shutting down"))
        processor = BatchProcessor(
            Flaky({}, 10.0), 4, continue_on_error=False, rate_limit=RateLimit(2, per=3600), telemetry=False
        )
        return [result.status for result in await processor.batch(range(6))]

    assert run_virtual(main()) == ["ok"] * 2 + ["cancelled"] * 4


def test_failure_stops_a_draining_fail_fast_batch(run_virtual: Run) -> None:
    node = Flaky({1: 1}, 10.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(5.0, lambda: active_batches(loop)[0].drain("shutting down"))
        with pytest.raises(ConnectionError, match="not yet 1"):
            await BatchProcessor(node, 2, continue_on_error=False, telemetry=False).batch(range(6))

    run_virtual(main())


def test_drain_cancels_an_item_whose_retry_waits_for_the_rate_limit(run_virtual: Run) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        processor = BatchProcessor(
            Flaky({0: 9}), 2, retry=RetryPolicy(3, **NO_JITTER), rate_limit=RateLimit(1, per=100), telemetry=False
        )
        batch = asyncio.create_task(processor.batch([0]))
        await asyncio.sleep(50.0)  # it failed, spent its backoff, and now waits for the rate limit
        active_batches(loop)[0].drain("shutting down")
        return await batch, loop.time()

    (result,), ended_s = run_virtual(main())
    assert (result.status, result.attempts, result.error) == ("cancelled", 1, "not tried again: shutting down")
    assert ended_s == pytest.approx(50.0)


class TimedSource:
    """Async source that yields a number at each given time, and can be read on after its batch.

    Args:
        times_s: When each number is yielded, on the loop's clock, in seconds.
    """

    def __init__(self, times_s: list[float]) -> None:
        self.left = list(enumerate(times_s))

    def __aiter__(self) -> TimedSource:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        await asyncio.sleep(self.left[0][1] - asyncio.get_running_loop().time())
        return self.left.pop(0)[0]


@pytest.mark.parametrize("end", ["drain", "stop"])
@pytest.mark.parametrize("arrives_s", [5.0, 6.0, 7.0, 8.0])
def test_input_that_arrives_while_a_batch_with_retries_ends_is_kept(
    arrives_s: float, end: str, run_virtual: Run
) -> None:
    async def node(x: int) -> int:
        if x == 0:
            raise ConnectionError
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(7.0)
        await asyncio.sleep(7.0 - asyncio.get_running_loop().time())  # stopping takes until then
        return x

    async def main() -> None:
        loop, recorder = asyncio.get_running_loop(), Recorder()
        loop.call_later(5.0, lambda: [getattr(batch, end)("over") for batch in active_batches(loop)])
        source = TimedSource([0.0, 0.0, arrives_s, 60.0, 61.0])
        retry = RetryPolicy(2, wait=lambda _: 3600.0)
        results = await BatchProcessor(node, 3, retry=retry, telemetry=False, instruments=[recorder]).batch(source)
        taken = [result.input_data for result in results]
        assert [*taken, *[x async for x in source]] == list(range(5))
        assert [result.index for result in results] == taken
        assert Counter(line[0] for line in recorder.log if line[0] in ("started", "finished")) == {
            "started": len(taken),
            "finished": len(taken),
        }
        if len(taken) == 3:
            assert (results[2].status, results[2].error) == ("cancelled", "not started: over")

    run_virtual(main())


@pytest.mark.parametrize(
    ("name", "value"), [("retry", "3"), ("breaker", 0.5), ("retry", RateLimit(1)), ("breaker", RetryPolicy())]
)
def test_policy_of_a_wrong_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a"):
        BatchProcessor(Flaky({}), **{name: value})


@pytest.mark.parametrize("value", [5, [RateLimit(1), 3], "fast"])
def test_rate_limit_of_a_wrong_type_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"rate_limit must be|a rate is written like"):
        BatchProcessor(Flaky({}), rate_limit=value)


def test_shorthands_make_a_retry_policy_and_a_rate_limit() -> None:
    processor = BatchProcessor(Flaky({}), retry=3, rate_limit="100/s")
    assert processor.retry == RetryPolicy(3)
    assert [(limit.rate, limit.per) for limit in processor.rate_limit] == [(100, 1)]


def test_adaptive_limit_set_by_hand_adapts_from_there(run_virtual: Run) -> None:
    """The controller reads the batch's clock, so it adapts in virtual time too."""

    class ThrottledError(Exception):
        status = 429

    async def service(x: int) -> int:
        await asyncio.sleep(0.1)
        if asyncio.get_running_loop().time() > 5:
            raise ThrottledError
        return x

    async def main() -> None:
        processor = BatchProcessor(service, AdaptiveLimit(2, 32), telemetry=False, instruments=[watch])
        asyncio.get_running_loop().call_later(2, processor.set_max_concurrency, 30)
        await processor.batch(range(2_000))

    class Watch(Instrument):
        def __init__(self) -> None:
            self.reasons: list[str] = []

        def limit_changed(self, batch: Any) -> None:
            self.reasons.append(batch.limit_change.reason)

    watch = Watch()
    run_virtual(main())
    assert "set" in watch.reasons
    assert "throttled" in watch.reasons[watch.reasons.index("set") :]


def test_retry_does_not_repeat_an_output_that_is_unrun_code(run_virtual: Run) -> None:
    async def node(item: int) -> Iterator[int]:
        return (number for number in range(item))

    (result,) = run_virtual(BatchProcessor(node, 1, retry=RetryPolicy(3, base=0.0), telemetry=False).batch([1]))
    assert (result.status, result.attempts) == ("failed", 1)
    assert "returned a generator" in result.error


@pytest.mark.parametrize("what", ["rate limit", "circuit"])
def test_item_that_waits_for_a_policy_when_the_batch_stops_says_not_started(what: str, run_virtual: Run) -> None:
    async def node(x: int) -> int:
        if what == "circuit" and x < 2:
            raise ConnectionError(f"refused {x}")
        await asyncio.sleep(3600.0)
        return x

    settings: dict[str, Any] = {"rate_limit": RateLimit(2, per=3600)}
    if what == "circuit":
        settings = {"breaker": CircuitBreaker(0.5, window=60, cooldown=3600.0, minimum=2, open="pause")}
    processor = BatchProcessor(node, 4, telemetry=False, batch_timeout=5.0, **settings)
    results = run_virtual(processor.batch(range(9)))
    late = "the batch took longer than batch_timeout=5 s"
    ended = [late] * 2 if what == "rate limit" else ["refused 0", "refused 1"]
    assert [r.error for r in results] == ended + [f"not started: {late}"] * 7
    assert [r.attempts for r in results] == [1] * 2 + [0] * 7


def test_item_whose_retry_waits_for_the_rate_limit_when_the_batch_stops_says_not_tried_again(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        raise ConnectionError(f"refused {x}")

    settings: dict[str, Any] = {"rate_limit": RateLimit(1, per=3600), "retry": RetryPolicy(2, wait=lambda _: 1.0)}
    (result,) = run_virtual(BatchProcessor(node, 1, telemetry=False, batch_timeout=5.0, **settings).batch([0]))
    assert (result.attempts, result.error) == (1, "not tried again: the batch took longer than batch_timeout=5 s")
