"""PromQL built from the catalogue: an unknown metric or label raises instead of reaching a dashboard."""

from __future__ import annotations

import re
from typing import Final

from flowrt.executors.workers import TRANSPORT_BOUNDS_S
from flowrt.telemetry.metrics.catalogue import (
    CATALOGUE,
    DURATION_BOUNDS_S,
    LAG_BOUNDS_S,
    QUEUE_WAIT_BOUNDS_S,
    RUN_BOUNDS_S,
)

__all__ = [
    "AT_THE_END",
    "FIRING",
    "LARGEST",
    "LOWEST_BOUND_S",
    "MOST_SERIES",
    "PROCESS_METRICS",
    "UNKNOWN_CULPRIT",
    "Chosen",
    "culprits",
    "largest",
    "recorded",
]

PROCESS_METRICS: Final = {
    "up": "gauge",
    "process_cpu_seconds_total": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_open_fds": "gauge",
    "process_max_fds": "gauge",
    "process_start_time_seconds": "gauge",
    "python_gc_collections_total": "counter",
    "scrape_duration_seconds": "gauge",
}
"""Metrics that Prometheus and prometheus_client add for every Python process, with their types."""

FIRING: Final = 'ALERTS{alertname=~"Flowrt.+", alertstate="firing", job=~"$job"}'
"""Selector of the flowrt alerts that fire now, for the chosen jobs."""

LOWEST_BOUND_S: Final = {
    "flowrt_item_duration_seconds": DURATION_BOUNDS_S[0],
    "flowrt_attempt_duration_seconds": DURATION_BOUNDS_S[0],
    "flowrt_item_queue_wait_seconds": QUEUE_WAIT_BOUNDS_S[0],
    "flowrt_batch_duration_seconds": RUN_BOUNDS_S[0],
    "flowrt_event_loop_lag_seconds": LAG_BOUNDS_S[0],
    "flowrt_transport_duration_seconds": TRANSPORT_BOUNDS_S[0],
}
"""Upper bound of each histogram's first bucket, in seconds. Below it a percentile is made up: Prometheus draws a line
from 0 to the bound, so that half the bound is reported as the median of anything quick."""

UNKNOWN_CULPRIT: Final = "culprit unknown"

MOST_SERIES: Final = 8
"""Largest number of series that a panel draws by name: a service may have hundreds of names, and a legend cannot."""

LARGEST: Final = f"Drawn are the {MOST_SERIES} largest of the time shown."
"""Sentence for the description of a panel with `largest`."""

AT_THE_END: Final = "[$__range] @ end()"
"""Range of a selector that has one value for the whole time shown."""

_RATE: Final = "$__rate_interval"


class Chosen:
    """Queries narrowed by a dashboard's variables: always by job and instance, by the others where a metric has them.

    Args:
        variables: Variables beside job and instance.
    """

    def __init__(self, *variables: str) -> None:
        self._variables = variables

    def metric(self, name: str, where: str = "") -> str:
        """Return a selector.

        Args:
            name: The metric; of a histogram with `_bucket`, `_sum` or `_count`.
            where: Further matchers.

        Raises:
            KeyError: The catalogue has no such metric.
        """
        labels = ["job", "instance", *(label for label in self._variables if label in _labels(name))]
        parts = [f'{label}=~"${label}"' for label in labels]
        return f"{name}{{{', '.join([*parts, where] if where else parts)}}}"

    def rate(self, name: str, where: str = "") -> str:
        """Return a counter's rate per second."""
        return f"rate({self.metric(name, where)}[{_RATE}])"

    def increase(self, name: str, where: str = "") -> str:
        """Return a counter's increase over the time shown."""
        return f"increase({self.metric(name, where)}[$__range])"

    def quantile(self, q: float, name: str, where: str = "", *, by: str = "") -> str:
        """Return a quantile of a histogram; nothing where it lies in the first bucket.

        Args:
            q: The quantile, from 0 to 1.
            name: The histogram.
            where: Further matchers.
            by: Labels to keep.
        """
        return f"{self._quantile(q, name, where, by)} > {LOWEST_BOUND_S[name]:g}"

    def at_most(self, q: float, name: str) -> str:
        """Return an upper bound of a quantile: the quantile, or the first bucket's bound where it lies below."""
        return f"clamp_min({self._quantile(q, name, '', '')}, {LOWEST_BOUND_S[name]:g})"

    def _quantile(self, q: float, name: str, where: str, by: str) -> str:
        labels = f"{by}, le" if by else "le"
        return f"histogram_quantile({q:g}, sum by ({labels}) ({self.rate(f'{name}_bucket', where)}))"

    def mean(self, name: str, by: str = "") -> str:
        """Return the mean of a histogram's observations, which is exact whatever the buckets are.

        Args:
            name: The histogram.
            by: Labels to keep.
        """
        grouped = f"sum by ({by})" if by else "sum"
        total, count = self.rate(f"{name}_sum"), self.rate(f"{name}_count")
        return f"{grouped} ({total}) / ({grouped} ({count}) > 0)"


def culprits(expr: str) -> str:
    """Rename the node `none`, which stands for a stall without a known culprit.

    Args:
        expr: A query with the label `node`.
    """
    return f'label_replace({expr}, "node", "{UNKNOWN_CULPRIT}", "node", "none")'


def largest(expr: str, by: str, rank: str | None = None) -> str:
    """Return the series of a query that are largest over the time shown, the same series at each step.

    `topk(8, ...)` alone chooses anew at each step of a range, and a panel would draw all that ever were among them.

    Args:
        expr: The query.
        by: Labels of its series.
        rank: The query for the order, evaluated at the end of the time shown; None for `expr` over that time.
    """
    if rank is None:
        rank = re.sub(r"\brate\((\w+\{[^{}]*\})\[\$__rate_interval\]\)", r"increase(\1[$__range])", expr)
        rank = rank.replace("[$__range]", AT_THE_END)
    return f"{expr} and on ({by}) topk({MOST_SERIES}, {rank})"


def _labels(name: str) -> tuple[str, ...]:
    """Labels of a metric, beside those that Prometheus adds."""
    if name in PROCESS_METRICS:
        return ()
    known = CATALOGUE.get(name)
    for part in ("_bucket", "_sum", "_count"):
        if known is None and name.endswith(part):
            known = CATALOGUE.get(name.removesuffix(part))
    if known is None:
        raise KeyError(f"{name} is not in the catalogue (flowrt/telemetry/metrics/catalogue.py)")
    return known.labels


def recorded(name: str, *labels: str) -> str:
    """Return a selector of a recorded series, which has no instance.

    Args:
        name: The series, as in the recording rules.
        labels: Variables beside job.
    """
    chosen = ", ".join(f'{label}=~"${label}"' for label in ("job", *labels))
    return f"{name}{{{chosen}}}"
