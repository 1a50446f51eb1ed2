"""Renders the page of a scrape: flowrt's own series from cached lines, all others by prometheus_client.

A scrape shares the GIL with the loop, so it takes time from a saturated loop. Of the thousands of lines, few change
between scrapes, and only in their numbers. Each series therefore caches its lines, and a pattern into which new numbers
are filled. This module knows no format: prometheus_client renders one series of each metric in the requested format,
and that rendering is the pattern of the other series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from flowrt.telemetry.metrics.catalogue import CATALOGUE, Metric
from flowrt.telemetry.metrics.collector import PLACEHOLDER, as_family, collector_in
from flowrt.telemetry.metrics.exemplars import Exemplar
from flowrt.telemetry.metrics.snapshot import Distribution, Labels, Reading, Row, Value

__all__ = ["Encoder", "render"]

Encoder = Callable[[Collector], bytes]
"""Encoder as returned by `prometheus_client.exposition.choose_encoder`: renders a registry in one format."""

_BOUND_NS: Final = 123_456_789  # a bound that no metric has: it marks the place of the bounds in the pattern
_BOUND: Final = repr(_BOUND_NS / 1e9)
_ONE: Final = Distribution((_BOUND_NS,), (0, 0), 0.0, (Exemplar("0", "0", 0.0, 0.0), None))
_SMALL: Final = 1_000_000  # the formats write numbers from here on with an exponent
_as_number: Final[Callable[[float], str]] = floatToGoString  # prometheus_client leaves it untyped


def render(registry: CollectorRegistry, encoder: Encoder) -> bytes:
    """Render the same bytes as `encoder(registry)`, faster if the registry holds a store's collector.

    Args:
        registry: The registry to render.
        encoder: The format's encoder.

    Raises:
        Exception: Any exception of a collector in the registry.
    """
    collector = collector_in(registry)
    if collector is None:
        return encoder(registry)
    layout = _layout(encoder)
    with collector.placeholder_only():
        page = encoder(registry)
    before, stand_in, after = page.partition(layout.stand_in)
    if not stand_in:  # the collector was unregistered
        return page
    return b"".join([before, *[layout.lines(reading) for reading in collector.reader.read()], after])


class _Only(Collector):
    """Collector of the given families only."""

    def __init__(self, *families: Family) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        """The families."""
        return self._families


def _one_of(metric: Metric) -> Family:
    """Metric with one series. Its label values are the label names between `@`, its numbers are 0."""
    labels = tuple(f"@{name}@" for name in metric.labels)
    return as_family(Reading(metric, [(labels, _ONE if metric.kind == "histogram" else 0.0)]))


_PROBE: Final = _Only(*map(_one_of, map(CATALOGUE.__getitem__, ("flowrt_items_total", "flowrt_item_duration_seconds"))))


class _Layout:
    """Renders readings in one format. Safe to use from several threads at once.

    Args:
        encoder: The format's encoder.

    Attributes:
        stand_in: The placeholder family, rendered in this format.
    """

    def __init__(self, encoder: Encoder) -> None:
        end = encoder(_Only())
        self.stand_in = encoder(_Only(PLACEHOLDER)).removesuffix(end)
        exemplars = b"trace_id" in encoder(_PROBE)
        self._metrics = {
            name: _Lines(encoder(_Only(_one_of(metric))).removesuffix(end).decode(), metric, exemplars)
            for name, metric in CATALOGUE.items()
        }

    def lines(self, reading: Reading) -> bytes:
        """Lines of one metric."""
        return self._metrics[reading.metric.name].render(reading.rows)


_layouts: dict[bytes, _Layout] = {}


def _layout(encoder: Encoder) -> _Layout:
    """Layout of a format. Formats that render the probe alike share one: there are many names, but few formats."""
    shown = encoder(_PROBE)
    layout = _layouts.get(shown)
    if layout is None:
        layout = _layouts[shown] = _Layout(encoder)
    return layout


class _Kept(NamedTuple):
    """Cached rendering of one series.

    Attributes:
        value: The rendered value.
        lines: The rendered lines.
        pattern: The lines with `%s` in place of the numbers.
    """

    value: Value
    lines: str
    pattern: str


class _Lines:
    """Renders one metric.

    Args:
        shown: `_one_of(metric)`, rendered in the format.
        metric: The metric.
        exemplars: True if the format shows exemplars.
    """

    def __init__(self, shown: str, metric: Metric, exemplars: bool) -> None:
        self._names = metric.labels
        self._exemplars = exemplars
        self._head = "".join(f"{line}\n" for line in shown.split("\n") if line.startswith("#"))
        series = [line.partition(" # ")[0] for line in shown.split("\n") if line and not line.startswith("#")]
        self._bucket = "".join(self._pattern_of(line) for line in series if f'"{_BOUND}"' in line)
        self._rest = "".join(self._pattern_of(line) for line in series if f'"{_BOUND}"' not in line)
        self._patterns: dict[tuple[int, ...], str] = {(): self._rest}
        self._kept: dict[Labels, _Kept] = {}

    def _pattern_of(self, line: str) -> str:
        """Pattern of a line, with named places for the labels and `%%s` for the number.

        The labels are filled in once per series, which leaves `%s`; the number is filled in at every change.
        """
        pattern = line.removesuffix("0.0").replace("%", "%%")
        for name in self._names:
            pattern = pattern.replace(f'"@{name}@"', f'"%({name})s"')
        return f"{pattern}%%s\n"

    def render(self, rows: Sequence[Row]) -> bytes:
        """Lines of the metric's series, below its HELP and TYPE lines."""
        kept, parts = self._kept, [self._head]
        for labels, value in rows:
            series = kept.get(labels)
            if series is None or series.value != value:
                series = kept[labels] = self._series(labels, value, series)
            parts.append(series.lines)
        if len(kept) > len(rows):  # a series is gone; replace the dict, since other threads may be using it
            self._kept = {labels: kept[labels] for labels, _ in rows}
        return "".join(parts).encode()

    def _series(self, labels: Labels, value: Value, before: _Kept | None) -> _Kept:
        if not isinstance(value, Distribution):
            pattern = self._new_pattern(labels) if before is None else before.pattern
            return _Kept(value, pattern % _as_number(value), pattern)
        if before is not None and isinstance(before.value, Distribution) and before.value.bounds_ns == value.bounds_ns:
            pattern = before.pattern
        else:
            pattern = self._new_pattern(labels, value.bounds_ns)
        return _Kept(value, pattern % self._numbers(value), pattern)

    def _new_pattern(self, labels: Labels, bounds_ns: tuple[int, ...] = ()) -> str:
        pattern = self._patterns.get(bounds_ns)
        if pattern is None:
            buckets = [self._bucket.replace(_BOUND, repr(bound / 1e9)) for bound in bounds_ns]
            pattern = self._patterns[bounds_ns] = "".join([*buckets, self._rest])
        return pattern % dict(zip(self._names, map(_escaped, labels), strict=True))

    def _numbers(self, value: Distribution) -> tuple[str, ...]:
        """Counts of the buckets, the count and the sum, in the order of the lines."""
        counts = value.counts
        texts = [f"{count}.0" for count in counts] if counts[-1] < _SMALL else list(map(_as_number, counts))
        count = texts[-1]
        if self._exemplars and value.exemplars:
            texts = [
                text if exemplar is None else f"{text}{_as_text(exemplar)}"
                for text, exemplar in zip(texts, value.exemplars, strict=True)
            ]
        return *texts, count, _as_number(value.sum_s)


def _escaped(text: str) -> str:
    """Label value, escaped as all formats do and for use in a pattern."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"").replace("%", "%%")


def _as_text(exemplar: Exemplar) -> str:
    return f' # {{trace_id="{exemplar.trace_id}"}} {_as_number(exemplar.value_s)} {exemplar.at_s}'
