"""Every metric that flowrt exposes: the one description that the collector, the documentation and the tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "CATALOGUE",
    "DURATION_BOUNDS_S",
    "LAG_BOUNDS_S",
    "QUEUE_WAIT_BOUNDS_S",
    "RUN_BOUNDS_S",
    "Metric",
    "as_markdown",
]

DURATION_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
QUEUE_WAIT_BOUNDS_S: Final = (*DURATION_BOUNDS_S, 1800)
RUN_BOUNDS_S: Final = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 10800, 21600)
LAG_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family.

    Args:
        name: Its full name; a counter's includes `_total`.
        kind: Its Prometheus type.
        help: What it counts or measures, and its unit.
        labels: Its label names.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]


CIRCUIT_STATES: Final = ("closed", "half_open", "open")
"""The states of a circuit breaker, each at the place of its number."""

_PAIR = ("batch", "node")
_BATCH = ("batch",)

CATALOGUE: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("flowrt_items_total", "counter", "Items that ended, by how they ended.", (*_PAIR, "status")),
        Metric("flowrt_item_errors_total", "counter", "Items that failed, by type of error.", (*_PAIR, "error_type")),
        Metric(
            "flowrt_item_attempts_total",
            "counter",
            "Attempts that ended, retries included; hedges are counted apart.",
            (*_PAIR, "status"),
        ),
        Metric("flowrt_item_retries_total", "counter", "Further attempts, by why one was needed.", (*_PAIR, "reason")),
        Metric(
            "flowrt_item_hedges_total",
            "counter",
            "Second attempts beside a straggler's first: they won, lost, or failed.",
            (*_PAIR, "outcome"),
        ),
        Metric("flowrt_item_duration_seconds", "histogram", "From pulled to ended, in seconds.", (*_PAIR, "status")),
        Metric("flowrt_attempt_duration_seconds", "histogram", "Service time of one attempt, in seconds.", _PAIR),
        Metric("flowrt_item_queue_wait_seconds", "histogram", "From pulled to the first start, in seconds.", _PAIR),
        Metric("flowrt_items_inflight", "gauge", "Items that occupy a slot now.", _PAIR),
        Metric(
            "flowrt_items_queued",
            "gauge",
            "Items that wait for a retry, a rate limit or an open circuit now.",
            _PAIR,
        ),
        Metric("flowrt_concurrency_limit", "gauge", "Slots that there are now.", _PAIR),
        Metric("flowrt_slot_busy_seconds_total", "counter", "Time for which slots were occupied, in seconds.", _PAIR),
        Metric(
            "flowrt_rate_limit_wait_seconds_total",
            "counter",
            "Time that ended items waited for rate limits and open circuits, in seconds.",
            _PAIR,
        ),
        Metric(
            "flowrt_retry_backoff_seconds_total",
            "counter",
            "Time that ended items were told to wait between attempts, in seconds.",
            _PAIR,
        ),
        Metric(
            "flowrt_bound_seconds_total",
            "counter",
            "Wall time of batches by what held them back, in seconds; sums to the batches' wall time.",
            (*_PAIR, "by"),
        ),
        Metric(
            "flowrt_circuit_state",
            "gauge",
            "State of the node's circuit breaker: 0 closed, 1 half-open, 2 open; 0 where there is none.",
            _PAIR,
        ),
        Metric("flowrt_batches_total", "counter", "Batches that ended, by how they ended.", ("batch", "status")),
        Metric("flowrt_batches_active", "gauge", "Batches under way.", _BATCH),
        Metric("flowrt_batch_items_expected", "gauge", "Items that the batches under way hold, where known.", _BATCH),
        Metric("flowrt_batch_items_completed", "gauge", "Items that ended in the batches under way.", _BATCH),
        Metric("flowrt_batch_duration_seconds", "histogram", "From a batch's start to its end, in seconds.", _BATCH),
        Metric(
            "flowrt_batch_last_success_timestamp_seconds",
            "gauge",
            "When a batch last ended with every item ok, in seconds since 1970; 0 for never.",
            _BATCH,
        ),
        Metric(
            "flowrt_batch_last_completion_timestamp_seconds",
            "gauge",
            "When a batch last ended in any way, in seconds since 1970; 0 for never.",
            _BATCH,
        ),
        Metric(
            "flowrt_batch_speedup_ratio",
            "gauge",
            "Speedup of the last batch over one item at a time: sum of execution times over wall time (claimed), and "
            "what is left without the time for which items held each other up, or what a sample says (measured).",
            ("batch", "method"),
        ),
        Metric("flowrt_event_loop_lag_seconds", "histogram", "How late the loop ran a timer, in seconds.", ()),
        Metric("flowrt_loop_stalls_total", "counter", "Times that a node blocked the event loop.", ("node",)),
        Metric(
            "flowrt_telemetry_dropped_total",
            "counter",
            "Telemetry that was not delivered or not kept apart, and why.",
            ("signal", "reason"),
        ),
        Metric("flowrt_telemetry_queue_size", "gauge", "Spans that wait for export now.", ("signal",)),
        Metric(
            "flowrt_telemetry_queue_limit",
            "gauge",
            "Spans that may wait for export, if all are as large as those of late; 0 where nothing is exported.",
            ("signal",),
        ),
        Metric("flowrt_unaccounted_items", "gauge", "Items pulled that have not been counted as ended; 0.", _BATCH),
        Metric(
            "flowrt_instrument_errors_total", "counter", "Instruments disabled because they raised.", ("instrument",)
        ),
        Metric("flowrt_build_info", "gauge", "1, with versions as labels.", ("version", "python", "loop")),
    )
}


def as_markdown() -> str:
    """The catalogue as a table for the documentation."""
    lines = ["| name | type | labels | what |", "|---|---|---|---|"]
    for metric in CATALOGUE.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines)
