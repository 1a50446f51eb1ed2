"""PromQL made of the catalogue's metrics: no name and no label that is not there can be written."""

from __future__ import annotations

from typing import Final

from flowrt.telemetry.metrics.catalogue import CATALOGUE

__all__ = ["FIRING", "PROCESS_METRICS", "Chosen", "recorded"]

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
"""What Prometheus itself and prometheus_client tell about every Python process."""

FIRING: Final = 'ALERTS{alertname=~"Flowrt.+", alertstate="firing", job=~"$job"}'
"""The alerts of flowrt that fire now, for the jobs chosen."""

_RATE: Final = "$__rate_interval"


class Chosen:
    """Queries for what a dashboard's variables choose: job and instance always, further labels where a metric has them.

    Args:
        variables: The further labels.
    """

    def __init__(self, *variables: str) -> None:
        self._variables = variables

    def metric(self, name: str, where: str = "") -> str:
        """A selector.

        Args:
            name: The metric; of a histogram with `_bucket`, `_sum` or `_count`.
            where: Further matchers.

        Raises:
            KeyError: There is no such metric.
        """
        labels = ["job", "instance", *(label for label in self._variables if label in _labels(name))]
        parts = [f'{label}=~"${label}"' for label in labels]
        return f"{name}{{{', '.join([*parts, where] if where else parts)}}}"

    def rate(self, name: str, where: str = "") -> str:
        """How fast a counter grows, by the second."""
        return f"rate({self.metric(name, where)}[{_RATE}])"

    def increase(self, name: str, where: str = "", *, window: str = "$__range") -> str:
        """How much a counter grew, by default over all that the dashboard shows."""
        return f"increase({self.metric(name, where)}[{window}])"

    def quantile(self, q: float, name: str, where: str = "") -> str:
        """A quantile of a histogram.

        Args:
            q: From 0 to 1.
            name: The histogram.
            where: Further matchers.
        """
        return f"histogram_quantile({q:g}, sum by (le) ({self.rate(f'{name}_bucket', where)}))"

    def average(self, name: str, per: str) -> str:
        """The mean of what a histogram took in.

        Args:
            name: The histogram.
            per: Labels to keep apart.
        """
        total, count = self.rate(f"{name}_sum"), self.rate(f"{name}_count")
        return f"sum by ({per}) ({total}) / (sum by ({per}) ({count}) > 0)"


def _labels(name: str) -> tuple[str, ...]:
    """The labels of a metric, beside those that Prometheus gives it."""
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
    """A selector of a recorded series, which has no instance.

    Args:
        name: As in the recording rules.
        labels: Variables to narrow it by, beside job.
    """
    chosen = ", ".join(f'{label}=~"${label}"' for label in ("job", *labels))
    return f"{name}{{{chosen}}}"
