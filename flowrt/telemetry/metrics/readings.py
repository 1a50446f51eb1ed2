"""Readings: the values of all series of one metric, independent of any exposition format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flowrt.telemetry.metrics.catalogue import Metric
from flowrt.telemetry.metrics.exemplars import Exemplar

__all__ = ["Distribution", "Labels", "Reading", "Row", "Value"]


class Distribution(NamedTuple):
    """Value of a histogram.

    Attributes:
        bounds_ns: Upper bounds of the buckets in nanoseconds, ascending, without the infinite last one.
        counts: Cumulative counts, one per bound and the total at the end.
        sum_s: Sum of the values, in seconds.
        exemplars: One exemplar or None per bucket; empty if no bucket has one.
    """

    bounds_ns: tuple[int, ...]
    counts: tuple[int, ...]
    sum_s: float
    exemplars: tuple[Exemplar | None, ...] = ()


Labels = tuple[str, ...]
"""Label values of a series, in the order of its metric's label names."""

Value = float | Distribution
Row = tuple[Labels, Value]


class Reading(NamedTuple):
    """Values of all series of one metric.

    Attributes:
        metric: The metric.
        rows: Label values and value of each series: a distribution for a histogram, else a number.
    """

    metric: Metric
    rows: Sequence[Row]
