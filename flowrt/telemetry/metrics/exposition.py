"""The page of a scrape: flowrt's own series from prepared lines, everything else by prometheus_client.

A scrape shares the GIL with the loop, and on a saturated one has half of the time: each millisecond counts twice. Of
the thousands of lines few change from one scrape to the next, and those in their numbers alone, so each series keeps
its lines, and the lines' pattern where the numbers do change. How a line looks is not known here: prometheus_client
renders one series of each metric in the format that is asked for, and all others are made after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from flowrt.telemetry.metrics.catalogue import CATALOGUE, Metric
from flowrt.telemetry.metrics.collector import STAND_IN, as_family, collector_in
from flowrt.telemetry.metrics.exemplars import Exemplar
from flowrt.telemetry.metrics.snapshot import Distribution, Labels, Reading, Row, Value

__all__ = ["Encoder", "render"]

Encoder = Callable[[Collector], bytes]
"""What `prometheus_client.exposition.choose_encoder` gives: it renders what a registry holds in one format."""

_BOUND_NS: Final = 123_456_789  # that of no metric: it is where the bounds go in the pattern
_BOUND: Final = repr(_BOUND_NS / 1e9)
_ONE: Final = Distribution((_BOUND_NS,), (0, 0), 0.0, (Exemplar("0", 0.0, 0.0), None))
_SMALL: Final = 1_000_000  # from here on numbers are written with an exponent
_as_number: Final[Callable[[float], str]] = floatToGoString  # it has no types


def render(registry: CollectorRegistry, encoder: Encoder) -> bytes:
    """The same bytes as `encoder(registry)`, sooner where `register` has put a store into the registry.

    Args:
        registry: What to render.
        encoder: The format.

    Raises:
        Exception: Whatever a collector in the registry raises.
    """
    collector = collector_in(registry)
    if collector is None:
        return encoder(registry)
    layout = _layout(encoder)
    with collector.standing_in():
        page = encoder(registry)
    before, stand_in, after = page.partition(layout.stand_in)
    if not stand_in:  # it has been taken out of the registry
        return page
    return b"".join([before, *[layout.lines(reading) for reading in collector.reader.read()], after])


class _Only(Collector):
    """Holds some families and nothing else."""

    def __init__(self, *families: Family) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        """The families."""
        return self._families


def _one_of(metric: Metric) -> Family:
    """A metric with one series, whose label values are the label names between `@`, and whose numbers are 0."""
    labels = tuple(f"@{name}@" for name in metric.labels)
    return as_family(Reading(metric, [(labels, _ONE if metric.kind == "histogram" else 0.0)]))


_PROBE: Final = _Only(*map(_one_of, map(CATALOGUE.__getitem__, ("flowrt_items_total", "flowrt_item_duration_seconds"))))


class _Layout:
    """Renders readings in one format. Any number of threads may use it at once.

    Args:
        encoder: The format.

    Attributes:
        stand_in: How it shows the family that stands in for all of flowrt's.
    """

    def __init__(self, encoder: Encoder) -> None:
        end = encoder(_Only())
        self.stand_in = encoder(_Only(STAND_IN)).removesuffix(end)
        exemplars = b"trace_id" in encoder(_PROBE)
        self._metrics = {
            name: _Lines(encoder(_Only(_one_of(metric))).removesuffix(end).decode(), metric, exemplars)
            for name, metric in CATALOGUE.items()
        }

    def lines(self, reading: Reading) -> bytes:
        """All lines of one metric."""
        return self._metrics[reading.metric.name].render(reading.rows)


_layouts: dict[bytes, _Layout] = {}


def _layout(encoder: Encoder) -> _Layout:
    """A format's layout; there are many formats by name, but few that show the probe in their own way."""
    shown = encoder(_PROBE)
    layout = _layouts.get(shown)
    if layout is None:
        layout = _layouts[shown] = _Layout(encoder)
    return layout


class _Kept(NamedTuple):
    """One series, as it was shown last.

    Attributes:
        value: What it said.
        lines: Its lines.
        pattern: The lines with `%s` in place of the numbers.
    """

    value: Value
    lines: str
    pattern: str


class _Lines:
    """Renders one metric.

    Args:
        shown: How a format shows `_one_of` it.
        metric: The metric.
        exemplars: Whether the format shows exemplars.
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
        """A line with places for the labels, which are filled in once, and for the number, which is each time."""
        pattern = line.removesuffix("0.0").replace("%", "%%")
        for name in self._names:
            pattern = pattern.replace(f'"@{name}@"', f'"%({name})s"')
        return f"{pattern}%%s\n"

    def render(self, rows: Sequence[Row]) -> bytes:
        """All lines, with those above them."""
        kept, parts = self._kept, [self._head]
        for labels, value in rows:
            series = kept.get(labels)
            if series is None or series.value != value:
                series = kept[labels] = self._series(labels, value, series)
            parts.append(series.lines)
        if len(kept) > len(rows):  # some series is no more; another thread may still use the old ones
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
        """The counts of the buckets, the count and the sum, in the order of the lines."""
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
    """A label value as every format writes it, in a pattern."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"").replace("%", "%%")


def _as_text(exemplar: Exemplar) -> str:
    return f' # {{trace_id="{exemplar.trace_id}"}} {_as_number(exemplar.value_s)} {exemplar.at_s}'
