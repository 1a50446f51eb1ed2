"""Ledger: one cause for each instant of a batch, exactly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowrt import (
    BatchFailedError,
    BatchProcessor,
    BatchRecord,
    CircuitBreaker,
    Instrument,
    RateLimit,
    RetryPolicy,
    Telemetry,
)
from flowrt.attribution.ledger import (
    CAUSES,
    CONSUMER,
    INPUT,
    LOOP_BLOCKED,
    PAUSED,
    RATE_LIMIT,
    SERVICE,
    SLOTS,
    TAIL,
    Ledger,
)
from flowrt.attribution.loop_time import BLOCKED, LoopTime
from flowrt.engine.batch_run import active_batches
from flowrt.testing import run_virtual
from tests.examples import examples

Run = Callable[[Any], Any]
S = 1_000_000_000


class Keep(Instrument):
    """Keeps the record of a batch."""

    batch: BatchRecord

    def batch_started(self, batch: BatchRecord) -> None:
        self.batch = batch


def bound(batch: BatchRecord) -> dict[str, float]:
    """Check the sums of a batch's ledger, and return its causes in seconds."""
    assert batch.ledger is not None
    read = batch.ledger.read(batch.finished_ns)
    assert sum(read.values()) == batch.finished_ns - batch.started_ns
    over_time = dict.fromkeys(CAUSES, 0)
    end = 0
    for begin_ns, end_ns, charged in batch.ledger.timeline():
        assert begin_ns == end
        end = end_ns
        for cause, ns in charged.items():
            over_time[cause] += ns
    assert over_time == read
    return {cause: ns / S for cause, ns in read.items() if ns}


def ran(inputs: Any, node: Any, limit: int, consumer_s: float | None = None, **options: Any) -> dict[str, float]:
    """Run a batch in virtual time, as a stream if the consumer's pace is given, and return its causes in seconds."""
    keep = Keep()

    async def main() -> None:
        processor = BatchProcessor(node, limit, instruments=[keep], **options)
        if consumer_s is None:
            await processor.batch(inputs)
            return
        async for _ in processor.batch_as_completed(inputs):
            await asyncio.sleep(consumer_s)

    run_virtual(main())
    return bound(keep.batch)


async def two_seconds(_: Any) -> None:
    await asyncio.sleep(2)


async def every_second(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(1)
        yield number


# -- each cause, exactly -----------------------------------------------------------------------------------------------


def test_slow_input_binds_while_slots_are_empty() -> None:
    assert ran(every_second(10), two_seconds, 10) == {"input": 10, "tail": 2}


def test_slots_bind_until_the_last_wave_which_is_service() -> None:
    assert ran(range(100), two_seconds, 10) == {"slots": 18, "service": 2}


def test_iterator_is_exhausted_since_its_last_item() -> None:
    assert ran((number for number in range(100)), two_seconds, 10) == {"slots": 18, "service": 2}


def test_rate_limit_binds_from_the_first_item_that_waits() -> None:
    async def node(_: int) -> None:
        await asyncio.sleep(1)

    assert ran(range(20), node, 10, rate_limit=RateLimit(2, per=1.0)) == {"rate_limit": 9, "tail": 1}


def test_slots_bind_until_a_rate_limit_is_used_up_and_more_gain_little() -> None:
    async def node(_: int) -> None:
        await asyncio.sleep(1)

    limit = RateLimit(15, per=10.0)  # as docs/concepts/binding.md says
    assert ran(range(160), node, 2, rate_limit=limit) == {"slots": 74, "rate_limit": 30, "service": 1}
    assert ran(range(160), node, 4, rate_limit=limit) == {"slots": 32, "rate_limit": 70, "tail": 1}


def test_open_circuit_binds_like_a_rate_limit() -> None:
    failures = iter([True, True])

    async def node(_: int) -> None:
        await asyncio.sleep(1)
        if next(failures, False):
            raise ConnectionError

    breaker = CircuitBreaker(failure_ratio=1.0, minimum=1, cooldown=5.0, probes=1, open="pause")
    assert ran(range(4), node, 2, breaker=breaker) == {"slots": 1, "rate_limit": 6, "tail": 1}


def test_backoff_binds_while_slots_are_empty_for_it() -> None:
    failures = {3: 2}

    async def node(number: int) -> None:
        await asyncio.sleep(1)
        if failures.get(number, 0):
            failures[number] -= 1
            raise ConnectionError

    retry = RetryPolicy(wait=lambda _: 3.0)
    assert ran(range(8), node, 4, retry=retry) == {"slots": 2, "backoff": 5, "tail": 2}


def test_slow_consumer_binds_while_workers_wait_for_it() -> None:
    assert ran(range(20), two_seconds, 10, consumer_s=1) == {"slots": 2, "consumer": 10, "tail": 1}


def test_consumer_that_keeps_up_is_not_charged() -> None:
    assert ran(range(20), two_seconds, 10, consumer_s=0) == {"slots": 2, "service": 2}


def test_stragglers_are_the_tail_after_service() -> None:
    async def node(number: int) -> None:
        await asyncio.sleep(5 if number == 3 else 1)

    assert ran(range(5), node, 10) == {"service": 1, "tail": 4}


def test_stopped_batch_ends_without_a_tail() -> None:
    assert ran(range(100), two_seconds, 10, batch_timeout=5) == {"slots": 5}


def test_drained_batch_has_a_tail_from_its_first_empty_slot() -> None:
    keep = Keep()

    async def node(number: int) -> None:
        await asyncio.sleep(5 if number else 1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.5, lambda: active_batches(loop)[0].drain("over"))
        await BatchProcessor(node, 2, instruments=[keep]).batch(range(9))

    run_virtual(main())
    assert bound(keep.batch) == {"slots": 0.5, "service": 0.5, "tail": 4}


def test_batch_without_telemetry_has_no_ledger() -> None:
    keep = Keep()
    run_virtual(BatchProcessor(two_seconds, telemetry=False, instruments=[keep]).batch([1]))
    assert keep.batch.ledger is None
    run_virtual(BatchProcessor(two_seconds, telemetry=Telemetry(ledger=False), instruments=[keep]).batch([1]))
    assert keep.batch.ledger is None


def test_iterator_that_blocks_for_its_next_item_is_the_input(run: Run) -> None:
    def slowly() -> Iterator[int]:
        for number in range(5):
            time.sleep(0.1)  # what is tested
            yield number

    async def node(_: int) -> None:
        await asyncio.sleep(0)

    keep = Keep()
    run(BatchProcessor(node, 2, instruments=[keep]).batch(slowly()))
    assert bound(keep.batch)["input"] >= 0.45


def test_node_that_blocks_the_loop_is_charged(run: Run) -> None:
    async def node(_: int) -> None:
        time.sleep(0.2)  # what is tested

    keep = Keep()
    run(BatchProcessor(node, 2, instruments=[keep]).batch(range(3)))
    assert bound(keep.batch)["loop_blocked"] >= 0.5
    assert keep.batch.ledger is not None
    assert keep.batch.ledger.blocked_computing_ns < 0.1 * S


def test_node_that_blocks_the_loop_by_computing_is_recognised(run: Run) -> None:
    async def node(_: int) -> None:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass

    keep = Keep()
    run(BatchProcessor(node, 2, instruments=[keep]).batch(range(20)))
    blocked = bound(keep.batch)["loop_blocked"]
    assert keep.batch.ledger is not None
    assert keep.batch.ledger.blocked_computing_ns >= 0.5 * blocked * S


def test_computing_loop_is_not_short_of_slots(run: Run) -> None:
    async def node(_: int) -> None:
        until = time.thread_time() + 0.001
        while time.thread_time() < until:
            pass
        await asyncio.sleep(0)

    keep = Keep()
    run(BatchProcessor(node, 2, instruments=[keep]).batch(range(300)))
    found = bound(keep.batch)
    assert found.get("slots", 0) < 0.5 * sum(found.values())
    assert found["service"] + found.get("loop_blocked", 0) > 0.5 * sum(found.values())


def test_slots_are_certain_at_once_while_a_list_has_inputs_left() -> None:
    # else the time is charged in one piece when the next item starts, and until then nothing but a blocked loop shows
    keep = Keep()
    seen: list[tuple[float, float]] = []

    async def node(number: int) -> None:
        if number == 0:
            await asyncio.sleep(10)
            ledger, batch = keep.batch.ledger, keep.batch
            assert ledger is not None
            now_ns = batch.clock()
            seen.append((ledger.read(now_ns, batch.latest_ns)["slots"] / S, (now_ns - batch.started_ns) / S))
        await asyncio.sleep(10)

    run_virtual(BatchProcessor(node, 2, instruments=[keep]).batch(range(10)))
    assert seen == [(pytest.approx(10), pytest.approx(10))]


def test_slots_are_not_charged_once_all_inputs_of_a_list_run() -> None:
    keep = Keep()
    seen: list[dict[str, float]] = []

    async def node(_: int) -> None:
        await asyncio.sleep(10)
        ledger, batch = keep.batch.ledger, keep.batch
        assert ledger is not None
        if not seen:
            seen.append({cause: ns / S for cause, ns in ledger.read(batch.clock()).items() if ns})
        await asyncio.sleep(10)

    run_virtual(BatchProcessor(node, 2, instruments=[keep]).batch(range(2)))
    assert seen == [{"service": pytest.approx(10)}]


def test_first_retry_after_the_last_pull_does_not_turn_service_into_slots() -> None:
    tried: list[int] = []

    async def node(number: int) -> None:
        tried.append(number)
        await asyncio.sleep(10)
        if tried.count(1) == 1 == number:
            raise ConnectionError
        await asyncio.sleep(10)

    found = ran(range(2), node, 2, retry=RetryPolicy(3, wait=lambda _: 5.0))
    assert found == pytest.approx({"service": 15, "backoff": 5, "tail": 15})


# -- random batches ----------------------------------------------------------------------------------------------------

SECONDS = st.sampled_from([0, 0.001, 0.5, 1, 3, 20])


class Watch(Instrument):
    """Reads the ledger repeatedly while the batch runs."""

    def __init__(self) -> None:
        self.batch: BatchRecord | None = None
        self.certain: dict[str, int] = dict.fromkeys(CAUSES, 0)

    def batch_started(self, batch: BatchRecord) -> None:
        self.batch = batch

    def look(self, now_ns: int) -> None:
        batch = self.batch
        if batch is None or batch.ledger is None or batch.finished_ns:
            return
        assert sum(batch.ledger.read(now_ns).values()) == now_ns - batch.started_ns
        certain = batch.ledger.read(now_ns, batch.latest_ns)
        assert all(certain[cause] >= self.certain[cause] for cause in CAUSES)
        self.certain = dict(certain)


@example(  # an item that comes back and waits for the rate, when all of the others have begun
    durations=[0, 0, 0, 0, 0, 1, 0, 20], failing={0, 1, 2, 3, 5}, gaps=None, lazy=False, limit=1, retries=2, rate=1,
    consumer_s=None, take=0, stop=None,
)  # fmt: skip
@settings(max_examples=examples(60), deadline=None)
@given(
    durations=st.lists(SECONDS, max_size=12),
    failing=st.sets(st.integers(0, 11)),
    gaps=st.none() | st.lists(SECONDS, min_size=12, max_size=12),
    lazy=st.booleans(),
    limit=st.integers(1, 6),
    retries=st.integers(0, 2),
    rate=st.none() | st.integers(1, 5),
    consumer_s=st.none() | SECONDS,
    take=st.integers(0, 12),
    stop=st.sampled_from([None, None, 2.5, "fail_fast"]),
)
def test_every_instant_has_one_cause(
    durations: list[float],
    failing: set[int],
    gaps: list[float] | None,
    lazy: bool,
    limit: int,
    retries: int,
    rate: int | None,
    consumer_s: float | None,
    take: int,
    stop: Any,
) -> None:
    watch = Watch()

    async def with_gaps() -> AsyncIterator[int]:
        for number in range(len(durations)):
            await asyncio.sleep(gaps[number] if gaps else 0)
            yield number

    async def node(number: int) -> None:
        await asyncio.sleep(durations[number])
        if number in failing:
            raise ConnectionError

    async def looking(processor: BatchProcessor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            watch.look(round(loop.time() * 1e9) + 1)
            await asyncio.sleep(0.7)

    async def main() -> None:
        inputs: Any = range(len(durations))
        if gaps is not None:
            inputs = with_gaps()
        elif lazy:
            inputs = iter(inputs)
        processor = BatchProcessor(
            node,
            limit,
            continue_on_error=stop != "fail_fast",
            batch_timeout=stop if isinstance(stop, float) else None,
            retry=RetryPolicy(retries + 1, wait=lambda _: 1.5) if retries else None,
            rate_limit=RateLimit(rate, per=1.0) if rate else None,
            instruments=[watch],
        )
        eye = asyncio.create_task(looking(processor))
        try:
            if consumer_s is None:
                await processor.batch(inputs)
            else:
                async with processor.batch_as_completed(inputs) as results:
                    async for result in results:
                        await asyncio.sleep(consumer_s)
                        if result.index == take:
                            break
        except ConnectionError:
            assert stop == "fail_fast"
        except BatchFailedError:  # by a stream, after its last result: `batch_timeout` came before the input's end
            assert consumer_s is not None
            assert isinstance(stop, float)
        finally:
            eye.cancel()
            await asyncio.wait([eye])
            assert eye.cancelled()

    run_virtual(main())
    if watch.batch is None:
        return
    assert watch.batch.ledger is not None
    found = bound(watch.batch)
    ending = watch.batch.ledger.read(watch.batch.finished_ns)
    assert all(ending[cause] >= watch.certain[cause] for cause in CAUSES)
    assert found.get("rate_limit", 0) == 0 or rate
    assert found.get("backoff", 0) == 0 or retries
    assert found.get("consumer", 0) == 0 or consumer_s
    assert found.get("input", 0) == 0 or gaps
    assert found.get("loop_blocked", 0) == 0


# -- the ledger itself -------------------------------------------------------------------------------------------------


def opened(at_ns: int = 0) -> Ledger:
    ledger = Ledger()
    ledger.open(at_ns)
    return ledger


def test_first_of_several_causes_counts() -> None:
    ledger = opened()
    ledger.wait(INPUT, 1 * S)
    ledger.wait(RATE_LIMIT, 2 * S)
    ledger.wait(CONSUMER, 3 * S)
    ledger.resume(RATE_LIMIT, 4 * S)
    ledger.resume(CONSUMER, 5 * S)
    ledger.wait(PAUSED, 6 * S)
    ledger.resume(PAUSED, 7 * S)
    ledger.resume(INPUT, 7 * S)
    ledger.close(8 * S)
    assert dict(zip(CAUSES, ledger.charged, strict=True)) == {
        **dict.fromkeys(CAUSES, 0),
        "input": 2 * S,
        "paused": 1 * S,
        "slots": 2 * S,
        "rate_limit": 1 * S,
        "consumer": 2 * S,
    }


def test_items_left_are_counted_as_the_input_ends_first() -> None:
    ledger = opened()
    ledger.input_exhausted(1 * S, 1 * S, 4, ended=True)
    ledger.input_exhausted(2 * S, 2 * S, 1, ended=True)
    assert ledger.left == 4
    ledger.input_available(3 * S)  # a retry is due, so that items wait for slots again
    ledger.input_exhausted(4 * S, 4 * S, 2, ended=True)
    assert ledger.left == 2


def test_time_after_a_due_beat_is_a_blocked_loop() -> None:
    loop_time = LoopTime()
    ledger = opened()
    ledger.follow(loop_time)
    loop_time.due_ns = 2 * S
    ledger.wait(INPUT, 1 * S)
    ledger.resume(INPUT, 5 * S)  # the loop has not turned since
    assert (ledger.charged[INPUT], ledger.charged[LOOP_BLOCKED]) == (1 * S, 3 * S)
    assert ledger.read(6 * S)["loop_blocked"] == 4 * S
    loop_time.add(BLOCKED, 2 * S, 6 * S)
    loop_time.due_ns = 7 * S
    ledger.close(6 * S)
    assert ledger.charged[LOOP_BLOCKED] == 4 * S


def test_loop_that_is_a_little_late_is_not_blocked() -> None:
    loop_time = LoopTime()
    ledger = opened()
    ledger.follow(loop_time)
    loop_time.due_ns = S
    ledger.close(S + 20_000_000)
    assert ledger.charged[LOOP_BLOCKED] == 0
    assert ledger.charged[SLOTS] == S + 20_000_000


def test_closed_ledger_does_not_change() -> None:
    ledger = opened()
    ledger.close(S)
    ledger.wait(CONSUMER, 2 * S)
    ledger.resume(CONSUMER, 3 * S)
    assert sum(ledger.read(9 * S).values()) == sum(ledger.charged) == S


def test_timeline_widens_its_pieces_and_loses_nothing() -> None:
    ledger = opened(7)
    at = 7
    for step in range(20_000):
        at += 1_234_567
        (ledger.wait if step % 2 else ledger.resume)(INPUT, at) if step else ledger.wait(INPUT, at)
        if step == 0:
            ledger.resume(INPUT, at)
            ledger.wait(INPUT, at)
    ledger.close(at)
    pieces = list(ledger.timeline())
    assert 200 < len(pieces) <= 513
    widths = {end - begin for begin, end, _ in pieces[:-1]}
    assert len(widths) == 1
    assert sum(sum(charged.values()) for _, _, charged in pieces) == at - 7
    whole = {cause: sum(charged[cause] for _, _, charged in pieces) for cause in CAUSES}
    assert whole == ledger.read(at)


def test_month_takes_a_few_hundred_pieces() -> None:
    ledger = opened()
    month = 30 * 24 * 3600 * S
    ledger.wait(INPUT, 10 * S)
    ledger.resume(INPUT, month)
    ledger.input_exhausted(month, month, 1, ended=True)
    ledger.close(month + S)
    pieces = list(ledger.timeline())
    assert 256 <= len(pieces) <= 513
    assert pieces[0][2]["slots"] == 10 * S
    assert pieces[-1][2]["tail"] == S
    assert ledger.charged[TAIL] == S
    assert ledger.charged[SERVICE] == 0


def test_repr_shows_the_charged_causes() -> None:
    ledger = opened()
    assert repr(ledger) == "<Ledger: nothing charged>"
    ledger.close(2 * S)
    assert repr(ledger) == "<Ledger: slots 2.000 s>"


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_its_series_from_the_start(cause: str) -> None:
    from prometheus_client import REGISTRY

    BatchProcessor(two_seconds, name="bound-from-the-start")
    labels = {"batch": "bound-from-the-start", "node": "two_seconds", "by": cause}
    assert REGISTRY.get_sample_value("flowrt_bound_seconds_total", labels) == 0


def test_series_sum_to_the_wall_time(run: Run) -> None:
    from prometheus_client import REGISTRY

    async def node(_: int) -> None:
        await asyncio.sleep(0.02)

    name = f"bound-sum-{time.monotonic_ns()}"
    results = run(BatchProcessor(node, 2, name=name).batch(range(6)))
    found = {
        cause: REGISTRY.get_sample_value("flowrt_bound_seconds_total", {"batch": name, "node": "node", "by": cause})
        for cause in CAUSES
    }
    assert sum(seconds or 0 for seconds in found.values()) == pytest.approx(results.wall_time, rel=1e-6)
    assert found == pytest.approx(results.report.bound_by)


def test_delays_of_one_ledger_are_not_those_of_another() -> None:
    first, second = Ledger(), Ledger()
    first.delays.known_ns += 5
    assert first.delays.known_ns == 5
    assert second.delays.known_ns == Ledger().delays.known_ns == 0
