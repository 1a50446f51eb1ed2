"""Differential test of the scraped page: the same bytes as prometheus_client's, in every format."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from itertools import zip_longest
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import choose_encoder

from flowrt import BatchProcessor, Telemetry
from flowrt._util.labels import label
from flowrt.attribution.speedup import Speedup
from flowrt.model import STATUSES, BatchRecord
from flowrt.telemetry.metrics import collector as collector_module
from flowrt.telemetry.metrics import exposition
from flowrt.telemetry.metrics.catalogue import DURATION_BOUNDS_S
from flowrt.telemetry.metrics.collector import StoreCollector, collector_in, register
from flowrt.telemetry.metrics.exemplars import Exemplar
from flowrt.telemetry.metrics.exposition import render
from flowrt.telemetry.metrics.store import DROP_REASONS, METRICS, SIGNALS, Histogram, MetricsStore
from tests.examples import examples

ACCEPTS = [
    "",
    *[
        f"{kind}; version={version}{escaping}"
        for kind, version in (("text/plain", "1.0.0"), ("application/openmetrics-text", "1.0.0"))
        for escaping in ("", *[f"; escaping={e}" for e in ("allow-utf-8", "underscores", "dots", "values")])
    ],
    "application/openmetrics-text",
    "application/openmetrics-text; version=2.0.0",
]

labels = st.one_of(
    st.sampled_from(
        ["a", "b", "%", "%s %(batch)s", "@batch@", '"@node@"', 'le="0.123456789"', "\\", '"', "\n", "\r\u2028", "# "]
    ),
    st.text(st.characters(), max_size=12),  # lone surrogates too
)
counts = st.one_of(st.integers(0, 3), st.integers(999_998, 1_000_002), st.integers(0, 10**18))
seconds = st.one_of(st.sampled_from([0.0, 1e6, 1e16, 1e-7]), st.floats(0, 1e300))
exemplars = st.builds(
    Exemplar, st.integers(0, 2**128 - 1).map("{:032x}".format), seconds, st.floats(1e9, 2e9, allow_subnormal=False)
)


def fill(data: st.DataObject, histogram: Histogram) -> None:
    for bucket in data.draw(st.lists(st.integers(0, len(histogram.counts) - 1), max_size=3)):
        histogram.counts[bucket] += data.draw(counts)
    histogram.sum_ns += data.draw(counts)


def work(data: st.DataObject, store: MetricsStore) -> None:
    """Change a store at random: declare a processor, count a batch, drop telemetry."""
    pair = store.declare(data.draw(labels), data.draw(labels), data.draw(st.integers(1, 100)))
    store.loop_name = data.draw(st.sampled_from(["asyncio", "uvloop"]))
    store.circuits[pair] = data.draw(st.sampled_from(["closed", "half_open", "open"]))
    store.dropped(data.draw(st.sampled_from(SIGNALS)), data.draw(st.sampled_from(DROP_REASONS)), data.draw(counts))
    store.stalled(data.draw(labels))
    fill(data, store.lag)
    batch = store.batches[pair[0]]
    fill(data, batch.duration)
    batch.last_success_s = batch.last_completion_s = data.draw(seconds)
    batch.latest = BatchRecord(name="b", node_id="n", node_type="t", limit=1)
    batch.latest.speedup = Speedup(data.draw(seconds), data.draw(seconds), 0.0, 0.0, "held")
    batch.unaccounted = data.draw(st.integers(-3, 3))
    slo = data.draw(st.sampled_from([(), (0.2,), (0.005,), (700.0,)]))
    for _ in range(data.draw(st.integers(0, 2))):
        shard = store.take(pair, tuple(sorted({*DURATION_BOUNDS_S, *slo})))
        shard.own_rest()
        for histogram in (shard.fast_path, shard.ok, shard.failed, shard.attempt, shard.queue_wait):
            fill(data, histogram)
        shard.items[data.draw(st.sampled_from(STATUSES))] += data.draw(counts)
        shard.errors[label(data.draw(labels))] = data.draw(counts)
        shard.backoff_ns += data.draw(counts)
        shard.bound_ns["service"] += data.draw(counts)
        for its in (shard.ok_exemplars, shard.failed_exemplars):
            its.latest = its.latest.copy()
            for bucket in data.draw(st.lists(st.integers(0, len(its.latest) - 1), max_size=2)):
                its.latest[bucket] = data.draw(exemplars)
        if data.draw(st.booleans()):
            store.give_back(shard)


def registry_of(store: MetricsStore) -> CollectorRegistry:
    """Registry with foreign metrics before and after flowrt's."""
    registry = CollectorRegistry(target_info={"service": "tried"})
    Gauge("before", "Before.", ["by"], registry=registry).labels('"\\\n').set(1)
    register(registry, store)
    Gauge("after", "After.", registry=registry).set(2)
    return registry


def assert_same_page(registry: CollectorRegistry) -> None:
    for accept in ACCEPTS:
        encoder, _ = choose_encoder(accept)
        page, expected = render(registry, encoder), encoder(registry)
        if page != expected:
            lines = zip_longest(page.split(b"\n"), expected.split(b"\n"))
            pytest.fail(f"{accept!r}: {next(line for line in lines if line[0] != line[1])}")


@settings(
    max_examples=examples(25), deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # shrinking takes minutes
@given(st.data())
def test_page_equals_that_of_prometheus_client_in_every_format(data: st.DataObject) -> None:
    store = MetricsStore()
    registry = registry_of(store)
    assert_same_page(registry)
    for _ in range(data.draw(st.integers(1, 4))):  # later scrapes use cached lines
        work(data, store)
        assert_same_page(registry)


def test_page_of_an_active_batch_equals_that_of_prometheus_client() -> None:
    reached, registry = 0, CollectorRegistry()
    register(registry)

    async def node(x: int) -> int:
        nonlocal reached
        await asyncio.sleep(0)
        if x % 10 == 0:
            (batch,) = [batch for batch in METRICS.active if batch.name == name]
            with patch.object(batch, "clock", return_value=batch.clock()):  # else busy time grows between the two pages
                assert_same_page(registry)
            reached += 1
        if x % 3 == 0:
            raise ValueError("a third")
        return x

    name = f"active {uuid.uuid4().hex[:8]}"
    results = asyncio.run(BatchProcessor(node, 4, name=name, telemetry=Telemetry(latency_slo=0.2)).batch(range(30)))
    assert {result.error_type for result in results.failed} == {"ValueError"}
    assert reached == 3
    assert_same_page(registry)


@pytest.fixture
def store() -> MetricsStore:
    store = MetricsStore()
    store.take(store.declare("batch", "node", 1), DURATION_BOUNDS_S).fast_path.add(5)
    return store


def test_unchanged_lines_are_not_rendered_again(store: MetricsStore) -> None:
    registry = registry_of(store)
    page = render(registry, generate_latest)
    with (
        patch.object(exposition, "_as_number", side_effect=AssertionError("a number is written again")),
        patch.object(exposition, "_escaped", side_effect=AssertionError("a label is written again")),
    ):
        assert render(registry, generate_latest) == page


def test_removed_series_leave_the_cache(store: MetricsStore) -> None:
    registry = registry_of(store)
    for number in range(50):
        store.loop_name = f"loop{number}"
        page = render(registry, generate_latest).decode()
        assert page.count("\nflowrt_build_info{") == page.count(f'loop="loop{number}"') == 1
    assert len(exposition._layout(generate_latest)._metrics["flowrt_build_info"]._kept) == 1


def test_formats_that_differ_only_in_name_share_a_layout(store: MetricsStore) -> None:
    registry = registry_of(store)
    for version in range(1, 30):
        encoder, _ = choose_encoder(f"application/openmetrics-text; version={version}.0.0")
        assert render(registry, encoder).endswith(b"# EOF\n")
    assert len(exposition._layouts) <= 6


def test_threads_that_register_at_once_register_one_collector(
    store: MetricsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when batches start on several loops, of which each makes the first processor of the process."""
    registry, both, errors = CollectorRegistry(), threading.Barrier(2), []

    class Slow(StoreCollector):
        def __init__(self, store: MetricsStore) -> None:
            with suppress(threading.BrokenBarrierError):
                both.wait(0.3)  # both threads make one, unless one of them waits for the other
            super().__init__(store)

    def register_too() -> None:
        try:
            register(registry, store)
        except ValueError as exc:
            errors.append(exc)

    monkeypatch.setattr(collector_module, "StoreCollector", Slow)
    threads = [threading.Thread(target=register_too) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert generate_latest(registry).count(b"# TYPE flowrt_items_total ") == 1


def test_placeholder_is_invisible_to_other_threads(store: MetricsStore) -> None:
    registry = registry_of(store)
    collector = collector_in(registry)
    assert collector is not None
    whole = generate_latest(registry)
    pages: list[bytes] = []
    with collector.placeholder_only():
        thread = threading.Thread(target=lambda: pages.append(generate_latest(registry)))
        thread.start()
        thread.join()
        pages.append(generate_latest(registry))
    assert pages[0].count(b"\n") == whole.count(b"\n")
    assert b"flowrt_items_total" not in pages[1]


def test_raising_collector_fails_only_its_scrape(store: MetricsStore) -> None:
    class Broken:
        broken = True

        def collect(self) -> Iterator[Any]:
            if self.broken:
                raise KeyError("broken")
            yield from ()

    registry, broken = registry_of(store), Broken()
    registry.register(broken)  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        render(registry, generate_latest)
    broken.broken = False
    assert_same_page(registry)
    assert b"flowrt_items_total{" in generate_latest(registry)


def test_registry_without_flowrt_is_rendered_unchanged(store: MetricsStore) -> None:
    plain, registry = CollectorRegistry(), registry_of(store)
    Gauge("own", "Own.", registry=plain).set(3)
    assert_same_page(plain)
    collector = collector_in(registry)
    assert collector is not None
    registry.unregister(collector)
    assert_same_page(registry)
    assert b"flowrt" not in render(registry, generate_latest)
