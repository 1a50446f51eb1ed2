"""Collector in the Prometheus registry: converts the store's integers into metric families."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar as OpenMetricsExemplar

from flowrt.telemetry.metrics.catalogue import CATALOGUE
from flowrt.telemetry.metrics.exemplars import Exemplar
from flowrt.telemetry.metrics.snapshot import Distribution, Reader, Reading
from flowrt.telemetry.metrics.store import METRICS, MetricsStore

__all__ = ["PLACEHOLDER", "StoreCollector", "as_family", "collector_in", "register"]

PLACEHOLDER: Final = Family(f"flowrt_{secrets.token_hex(8)}", "", "gauge")
"""Family without samples, with a random name that no other family has."""

_registered: dict[CollectorRegistry, StoreCollector] = {}
_registering: Final = threading.Lock()


def register(registry: CollectorRegistry = REGISTRY, store: MetricsStore = METRICS) -> None:
    """Register a collector of a store with a registry, once.

    Args:
        registry: The Prometheus registry; tests pass their own.
        store: The store to collect; tests pass their own.
    """
    if registry in _registered:  # as for every processor but the first
        return
    with _registering:  # a registry refuses a second collector of the same names
        if registry not in _registered:
            _registered[registry] = collector = StoreCollector(store)
            registry.register(collector)


def collector_in(registry: CollectorRegistry) -> StoreCollector | None:
    """The collector that `register` added to a registry, or None."""
    return _registered.get(registry)


class StoreCollector(Collector):
    """Reads a store at every scrape.

    Args:
        store: The store to read.

    Attributes:
        reader: The store's reader.
    """

    def __init__(self, store: MetricsStore) -> None:
        self.reader = Reader(store)
        self._thread = threading.local()

    def describe(self) -> Iterable[Family]:
        """Families without samples; the store is not read."""
        for metric in CATALOGUE.values():
            name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
            yield Family(name, metric.help, metric.kind)

    def collect(self) -> Iterator[Family]:
        """All families with their current samples."""
        if getattr(self._thread, "placeholder_only", False):
            yield PLACEHOLDER
        else:
            yield from map(as_family, self.reader.read())

    @contextmanager
    def placeholder_only(self) -> Iterator[None]:
        """Context in which `collect`, called from this thread, yields `PLACEHOLDER` instead of all families."""
        self._thread.placeholder_only = True
        try:
            yield
        finally:
            self._thread.placeholder_only = False


def as_family(reading: Reading) -> Family:
    """Convert a reading into a family of prometheus_client."""
    metric = reading.metric
    family: Any
    if metric.kind == "histogram":
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    elif metric.kind == "counter":
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    else:
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in reading.rows:
        if isinstance(value, Distribution):
            family.add_metric(labels, _buckets(value), value.sum_s)
        else:
            family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]  # the three have no common `add_metric`


def _buckets(value: Distribution) -> Sequence[Any]:
    bounds = [*[repr(bound / 1e9) for bound in value.bounds_ns], "+Inf"]
    exemplars = value.exemplars or (None,) * len(bounds)
    return [
        (bound, float(count)) if exemplar is None else (bound, float(count), _shown(exemplar))
        for bound, count, exemplar in zip(bounds, value.counts, exemplars, strict=True)
    ]


def _shown(exemplar: Exemplar) -> OpenMetricsExemplar:
    return OpenMetricsExemplar({"trace_id": exemplar.trace_id}, exemplar.value_s, exemplar.at_s)
