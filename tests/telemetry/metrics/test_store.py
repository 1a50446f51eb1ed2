"""Metrics of batches, scraped from the default Prometheus registry."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flowrt import BatchProcessor, Instrument, RetryPolicy, Telemetry
from flowrt.attribution.ledger import CAUSES
from flowrt.model import BatchRecord, ItemRecord, make_record
from flowrt.telemetry.metrics.catalogue import CATALOGUE, DURATION_BOUNDS_S
from flowrt.telemetry.metrics.collector import StoreCollector
from flowrt.telemetry.metrics.instrument import MetricsInstrument
from flowrt.telemetry.metrics.snapshot import Reader
from flowrt.telemetry.metrics.store import MetricsStore, Shard
from tests.calls import calls_of

Run = Callable[[Any], Any]
Sample = Callable[..., float]


@pytest.fixture
def name() -> str:
    """A unique batch label, since all tests share the process's store."""
    return f"b{uuid.uuid4().hex[:8]}"


async def half(x: int) -> int:
    await asyncio.sleep(0)
    if x % 2:
        raise ValueError("odd")
    return x


def test_series_start_at_zero(name: str, sample: Sample) -> None:
    BatchProcessor(half, 7, name=name)
    for status in ("ok", "failed", "timed_out", "cancelled", "resumed"):
        assert sample("flowrt_items_total", batch=name, node="half", status=status) == 0
    assert sample("flowrt_concurrency_limit", batch=name, node="half") == 7
    assert sample("flowrt_batches_total", batch=name, status="ok") == 0
    assert sample("flowrt_item_duration_seconds_bucket", batch=name, node="half", status="ok", le="+Inf") == 0


def test_counters_equal_the_results(run: Run, name: str, sample: Sample) -> None:
    run(BatchProcessor(half, 4, name=name).batch(range(100)))
    assert sample("flowrt_items_total", batch=name, node="half", status="ok") == 50
    assert sample("flowrt_items_total", batch=name, node="half", status="failed") == 50
    assert sample("flowrt_item_errors_total", batch=name, node="half", error_type="ValueError") == 50
    assert sample("flowrt_item_attempts_total", batch=name, node="half", status="ok") == 50
    assert sample("flowrt_item_attempts_total", batch=name, node="half", status="failed") == 50
    assert sample("flowrt_item_duration_seconds_count", batch=name, node="half", status="ok") == 50
    assert sample("flowrt_item_duration_seconds_count", batch=name, node="half", status="failed") == 50
    assert sample("flowrt_attempt_duration_seconds_count", batch=name, node="half") == 100
    assert sample("flowrt_item_queue_wait_seconds_bucket", batch=name, node="half", le="0.005") == 100
    assert sample("flowrt_batches_total", batch=name, status="failed") == 1
    assert sample("flowrt_unaccounted_items", batch=name) == 0
    assert sample("flowrt_batch_last_completion_timestamp_seconds", batch=name) > 1.7e9
    assert sample("flowrt_batch_last_success_timestamp_seconds", batch=name) == 0


def test_durations_are_counted_in_their_buckets(run_virtual: Run, name: str, sample: Sample) -> None:
    run_virtual(BatchProcessor(asyncio.sleep, 3, name=name).batch([0.02, 0.3, 45]))
    counted = {
        le: sample("flowrt_item_duration_seconds_bucket", batch=name, node="sleep", status="ok", le=le)
        for le in ("0.01", "0.025", "0.25", "0.5", "30.0", "60.0", "+Inf")
    }
    assert counted == {"0.01": 0, "0.025": 1, "0.25": 1, "0.5": 2, "30.0": 2, "60.0": 3, "+Inf": 3}
    assert sample("flowrt_item_duration_seconds_sum", batch=name, node="sleep", status="ok") == pytest.approx(45.32)
    assert sample("flowrt_slot_busy_seconds_total", batch=name, node="sleep") == pytest.approx(45.32)
    assert sample("flowrt_batch_duration_seconds_sum", batch=name) == pytest.approx(45)
    assert sample("flowrt_batch_speedup_ratio", batch=name, method="claimed") == pytest.approx(45.32 / 45)


def test_busy_time_never_exceeds_the_slots_with_waiting_retries(run_virtual: Run, name: str, sample: Sample) -> None:
    seen: set[int] = set()

    async def second_time(x: int) -> int:
        await asyncio.sleep(1)
        if x not in seen:
            seen.add(x)
            raise ConnectionError("the first time")
        return x

    policy = RetryPolicy(attempts=2, base=0.1, budget=None)
    run_virtual(BatchProcessor(second_time, 2, name=name, retry=policy).batch(range(20)))
    assert sample("flowrt_slot_busy_seconds_total", batch=name, node="second_time") == pytest.approx(40)
    assert sample("flowrt_batch_duration_seconds_sum", batch=name) * 2 >= 40


def test_latency_slo_adds_a_bucket(run_virtual: Run, name: str, sample: Sample) -> None:
    processor = BatchProcessor(asyncio.sleep, 3, name=name, telemetry=Telemetry(latency_slo=0.2))
    run_virtual(processor.batch([0.15, 0.21, 0.3]))
    assert sample("flowrt_item_duration_seconds_bucket", batch=name, node="sleep", status="ok", le="0.2") == 1


def test_latency_slo_within_a_nanosecond_of_a_bucket_adds_none(run: Run, name: str) -> None:
    run(BatchProcessor(half, 3, name=name, telemetry=Telemetry(latency_slo=0.25 + 1e-12)).batch([0]))
    page = generate_latest(REGISTRY).decode().splitlines()
    lines = [line for line in page if f'batch="{name}"' in line and 'le="0.25"' in line]
    assert len(lines) == 4  # durations ok and failed, attempts, queue waits


def test_running_batch_shows_items_in_flight(run: Run, name: str, sample: Sample) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        batch = asyncio.create_task(BatchProcessor(lambda _: gate.wait(), 3, name=name).batch(range(8)))
        while sample("flowrt_items_inflight", batch=name, node="lambda") < 3:
            await asyncio.sleep(0.001)
        assert sample("flowrt_batches_active", batch=name) == 1
        assert sample("flowrt_batch_items_expected", batch=name) == 8
        busy = sample("flowrt_slot_busy_seconds_total", batch=name, node="lambda")
        await asyncio.sleep(0.002)
        assert sample("flowrt_slot_busy_seconds_total", batch=name, node="lambda") > busy
        gate.set()
        await batch
        assert sample("flowrt_items_inflight", batch=name, node="lambda") == 0
        assert sample("flowrt_batches_active", batch=name) == 0

    run(main())


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_step_of_the_system_clock_is_not_measured(
    run: Run, name: str, sample: Sample, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        batch = asyncio.create_task(BatchProcessor(lambda _: gate.wait(), 3, name=name).batch(range(8)))
        while sample("flowrt_items_inflight", batch=name, node="lambda") < 3:
            await asyncio.sleep(0.001)
        time_ns = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: time_ns() + step_s * 1_000_000_000)
        busy = sample("flowrt_slot_busy_seconds_total", batch=name, node="lambda")
        await asyncio.sleep(0.002)
        assert busy < sample("flowrt_slot_busy_seconds_total", batch=name, node="lambda") < 1800
        bound = [sample("flowrt_bound_seconds_total", batch=name, node="lambda", by=cause) for cause in CAUSES]
        assert sum(bound) < 1800
        gate.set()
        await batch

    run(main())


def test_scrape_uses_the_clock_of_a_virtual_time_loop(run_virtual: Run, name: str, sample: Sample) -> None:
    async def main() -> None:
        batch = asyncio.create_task(BatchProcessor(asyncio.sleep, 3, name=name).batch([60, 60, 60]))
        await asyncio.sleep(40)
        assert sample("flowrt_slot_busy_seconds_total", batch=name, node="sleep") == pytest.approx(120)
        await batch

    run_virtual(main())


def test_timed_out_and_cancelled_items_have_their_own_status(run_virtual: Run, name: str, sample: Sample) -> None:
    processor = BatchProcessor(asyncio.sleep, 2, name=name, item_timeout=1, batch_timeout=3)
    run_virtual(processor.batch([0.5, 2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]))
    by_status = {
        status: sample("flowrt_items_total", batch=name, node="sleep", status=status)
        for status in ("ok", "timed_out", "cancelled")
    }
    assert by_status["timed_out"] == 1
    assert by_status["cancelled"] > 0
    assert sum(by_status.values()) == 9
    assert sample("flowrt_item_attempts_total", batch=name, node="sleep", status="timed_out") == 1


def test_error_types_are_bounded(run: Run, name: str, sample: Sample) -> None:
    async def raises(x: int) -> None:
        raise type(f"Error{x}", (Exception,), {})

    run(BatchProcessor(raises, 4, name=name).batch(range(50)))
    families = {f.name: f for f in text_string_to_metric_families(generate_latest(REGISTRY).decode())}
    mine = [s for s in families["flowrt_item_errors"].samples if s.labels["batch"] == name]
    assert len(mine) == 21
    assert sample("flowrt_item_errors_total", batch=name, node="raises", error_type="_OTHER") == 30


def test_error_types_are_bounded_across_concurrent_batches(run: Run, name: str, sample: Sample) -> None:
    async def raises(x: int) -> None:
        await asyncio.sleep(0)
        raise type(f"Error{x}", (Exception,), {})

    async def main() -> None:
        processor = BatchProcessor(raises, 4, name=name)
        await asyncio.gather(*[processor.batch([*range(start, start + 15)]) for start in (0, 15, 30, 0)])

    run(main())
    families = {f.name: f for f in text_string_to_metric_families(generate_latest(REGISTRY).decode())}
    mine = {
        s.labels["error_type"]: s.value for s in families["flowrt_item_errors"].samples if s.labels["batch"] == name
    }
    assert len(mine) == 21
    # All batches agree on which types have a series of their own.
    assert all(mine[kind] == (2 if int(kind.removeprefix("Error")) < 15 else 1) for kind in mine if kind != "_OTHER")
    assert sum(mine.values()) == 60


def test_pairs_over_the_limit_are_counted_under_other() -> None:
    store = MetricsStore()
    pairs = [store.declare(f"batch{i}", "node", 1) for i in range(100)]
    assert len(set(pairs)) == 65
    assert pairs[63] == ("batch63", "node")
    assert pairs[64] == pairs[99] == ("_other", "_other")

    async def main() -> None:
        batch = BatchRecord(name="batch99", node_id="node", node_type="t", batch_id="0", limit=1)
        instrument = MetricsInstrument(pairs[99], store=store)
        instrument.batch_started(batch)
        item = make_record(batch, 0, None, 5)
        item.started_ns, item.finished_ns, item.status, item.attempts = 5, 9, "ok", 1
        instrument.item_finished(item)
        instrument.batch_ended(batch)

    asyncio.run(main())
    samples = [s for family in StoreCollector(store).collect() for s in family.samples]
    (dropped,) = [
        s.value for s in samples if s.labels.get("reason") == "cardinality" and s.labels["signal"] == "metrics"
    ]
    assert dropped == 1
    assert len({s.labels["batch"] for s in samples if "batch" in s.labels}) == 65


@pytest.mark.parametrize("odd", ['new\nline "quoted" \\', "lone \udc80 surrogate", "x" * 1_000_000, "naïve ☃"])
def test_page_parses_with_any_name(odd: str, run: Run) -> None:
    async def fails(_: int) -> None:
        raise type(odd.replace("\0", ""), (Exception,), {})(odd)

    run(BatchProcessor(fails, 2, name=odd[:300] + uuid.uuid4().hex[:4]).batch(range(3)))
    text = generate_latest(REGISTRY).decode("utf-8")
    assert list(text_string_to_metric_families(text))
    assert max(map(len, text.splitlines())) < 2_000


def test_batches_of_two_threads_with_one_name_lose_no_count(name: str, sample: Sample) -> None:
    processor = BatchProcessor(half, 5, name=name)
    threads = [threading.Thread(target=lambda: asyncio.run(processor.batch(range(0, 4_000, 2)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sample("flowrt_items_total", batch=name, node="half", status="ok") == 6_000


def test_disabled_metrics_show_nothing(run: Run, name: str) -> None:
    run(BatchProcessor(half, 4, name=name, telemetry=False).batch(range(10)))
    assert name not in generate_latest(REGISTRY).decode()


def test_scrape_exposes_exactly_the_catalogue() -> None:
    BatchProcessor(half)
    text = generate_latest(REGISTRY).decode()
    exposed = dict(re.findall(r"^# TYPE (flowrt_\S+) (\S+)$", text, re.MULTILINE))
    assert exposed == {name: metric.kind for name, metric in CATALOGUE.items()}


def test_broken_instrument_is_counted_and_items_go_on(run: Run, name: str, sample: Sample) -> None:
    class Broken(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            raise RuntimeError("broken")

    results = run(BatchProcessor(half, 4, name=name, instruments=[Broken()]).batch(range(0, 10, 2)))
    assert results.success_rate == 1
    assert sample("flowrt_instrument_errors_total", instrument="Broken") >= 1
    assert sample("flowrt_items_total", batch=name, node="half", status="ok") == 5


def test_blocked_loop_is_measured_as_lag(run: Run, sample: Sample) -> None:
    async def blocks(_: int) -> None:
        threading.Event().wait(0.12)
        await asyncio.sleep(0.12)

    before = sample("flowrt_event_loop_lag_seconds_count") - sample("flowrt_event_loop_lag_seconds_bucket", le="0.01")
    run(BatchProcessor(blocks, 2).batch(range(2)))
    after = sample("flowrt_event_loop_lag_seconds_count") - sample("flowrt_event_loop_lag_seconds_bucket", le="0.01")
    assert after > before


def test_retry_of_an_attempt_that_never_started_counts_no_time() -> None:
    batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="0", limit=1)
    item = make_record(batch, 0, None, 5)
    item.finished_ns, item.status, item.retry = 10**15, "failed", SimpleNamespace(reason="error")
    shard = Shard(("b", "n"), DURATION_BOUNDS_S)
    shard.add_retry(item)
    assert (shard.retries["error"], shard.attempts["failed"], shard.service_ns) == (1, 0, 0)


def test_shard_with_failures_leaves_the_others_at_zero() -> None:
    store = MetricsStore()
    pair = store.declare("b", "n", 1)
    failing, other = store.take(pair, DURATION_BOUNDS_S), store.take(pair, DURATION_BOUNDS_S)
    item = make_record(BatchRecord(name="b", node_id="n", node_type="t", limit=1), 0, None, 5)
    item.started_ns, item.finished_ns, item.status, item.attempts, item.error_type = 6, 9, "failed", 1, "OSError"
    failing.add(item)
    failing.add_cancelled(3)
    assert (failing.counted, other.counted) == (4, 0)
    assert failing.items == {"ok": 0, "failed": 1, "timed_out": 0, "cancelled": 3, "resumed": 0}
    for shard in (other, store.take(pair, DURATION_BOUNDS_S)):
        assert not any(shard.items.values())
        assert not shard.errors
        assert not any(shard.attempts.values())
        assert not sum(shard.failed.counts) + sum(shard.attempt.counts) + sum(shard.queue_wait.counts)


def test_shard_is_taken_again_by_batches_of_its_bounds_alone() -> None:
    store = MetricsStore()
    pair = store.declare("b", "n", 1)
    shard = store.take(pair, DURATION_BOUNDS_S)
    store.give_back(shard)
    assert store.take(pair, (0.5, 1.0)) is not shard
    assert store.take(pair, DURATION_BOUNDS_S) is shard
    assert store.take(pair, DURATION_BOUNDS_S) is not shard


def test_speedup_of_the_latest_batch_is_that_of_its_results(run: Run, name: str, sample: Sample) -> None:
    async def wait(_: int) -> None:
        await asyncio.sleep(0.01)

    results = run(BatchProcessor(wait, 5, name=name).batch(range(10)))
    measured = sample("flowrt_batch_speedup_ratio", batch=name, method="measured")
    assert results.report.speedup is not None
    assert measured == results.report.speedup.measured
    assert measured > 0.0


def store_of(pairs: int, batches: int) -> tuple[MetricsStore, list[BatchRecord]]:
    """A store with active batches, which share the pairs in turn."""
    store, active = MetricsStore(), []
    for number in range(batches):
        batch = BatchRecord(name=f"b{number % pairs}", node_id="node", node_type="function", limit=1, expected=1)
        batch.shard = store.take(store.declare(batch.name, "node", 1), DURATION_BOUNDS_S)
        batch.reruns = 1
        store.active.add(batch)
        active.append(batch)
    return store, active


def test_read_visits_the_active_batches_as_often_for_many_pairs_as_for_one() -> None:
    def visits(pairs: int) -> int:
        store, active = store_of(pairs, pairs)
        counted = 0

        def count() -> Iterator[BatchRecord]:
            nonlocal counted
            counted += 1
            yield from active

        class Visited:
            def __iter__(self) -> Iterator[BatchRecord]:
                return count()

        store.active = Visited()  # type: ignore[assignment]
        Reader(store).read()
        return counted

    assert visits(50) == visits(1) >= 1


def test_active_batches_are_counted_under_their_own_pair() -> None:
    store, _active = store_of(3, 7)
    readings = {reading.metric.name: dict(reading.rows) for reading in Reader(store).read()}
    pairs = [(f"b{number}", "node") for number in range(3)]
    assert [readings["flowrt_item_reruns_total"][pair] for pair in pairs] == [3, 2, 2]
    assert [readings["flowrt_batches_active"][pair[:1]] for pair in pairs] == [3, 2, 2]
    assert [readings["flowrt_batch_items_expected"][pair[:1]] for pair in pairs] == [3, 2, 2]


def test_reruns_never_decrease_while_a_batch_ends() -> None:
    store, (batch,) = store_of(1, 1)
    reader = Reader(store)

    def reruns() -> Any:
        return {reading.metric.name: reading.rows for reading in reader.read()}["flowrt_item_reruns_total"]

    assert reruns() == [(("b0", "node"), 1)]
    store.active.discard(batch)  # as in `batch_ended`, which then adds to the shard
    assert reruns() == [(("b0", "node"), 1)]
    batch.shard.reruns += 1
    assert reruns() == [(("b0", "node"), 1)]


def test_shard_of_an_earlier_burst_costs_a_read_hardly_anything() -> None:
    def calls(shards: int) -> int:
        store = MetricsStore()
        pair = store.declare("burst", "node", 1)
        for shard in [store.take(pair, DURATION_BOUNDS_S) for _ in range(shards)]:
            store.give_back(shard)
        return calls_of(Reader(store).read)

    assert (calls(300) - calls(100)) / 200 <= 3


def test_shards_with_and_without_failures_add_up() -> None:
    store = MetricsStore()
    pair = store.declare("mixed", "node", 1)
    batch = BatchRecord(name="mixed", node_id="node", node_type="function", limit=1)
    for number, bounds_s in enumerate((DURATION_BOUNDS_S, DURATION_BOUNDS_S, (*DURATION_BOUNDS_S, 700.0)) * 2):
        shard = store.take(pair, bounds_s)
        shard.fast_path.add(150_000_000_000)
        if number > 2:
            item = make_record(batch, 0, None, 1)
            item.started_ns, item.finished_ns, item.attempts, item.status = 1, 150_000_000_001, 1, "failed"
            shard.add(item)
    readings = {reading.metric.name: dict(reading.rows) for reading in Reader(store).read()}
    assert readings["flowrt_items_total"][*pair, "ok"] == 6
    assert readings["flowrt_items_total"][*pair, "failed"] == 3
    assert readings["flowrt_item_attempts_total"][*pair, "failed"] == 3
    for status, count in (("ok", 6), ("failed", 3)):
        duration = readings["flowrt_item_duration_seconds"][*pair, status]
        assert duration.bounds_ns[-1] == 700_000_000_000
        assert (duration.counts[-1], duration.sum_s) == (count, 150.0 * count)
    attempt = readings["flowrt_attempt_duration_seconds"][pair]
    assert (attempt.counts[-1], attempt.sum_s) == (9, 1_350.0)
    assert readings["flowrt_item_queue_wait_seconds"][pair].counts[-1] == 9
