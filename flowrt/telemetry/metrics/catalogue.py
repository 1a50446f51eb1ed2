"""Catalogue of the metrics that flowrt exposes, shared by the collector, the documentation and the tests."""

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
    """Metric family.

    Args:
        name: Full name; a counter's includes `_total`.
        kind: Prometheus type.
        help: What the metric counts or measures, and its unit.
        labels: Label names.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]


LOOKUP_RESULTS: Final = ("hit", "miss")
"""Results of a look-up in the cache."""

CIRCUIT_STATES: Final = ("closed", "half_open", "open")
"""States of a circuit breaker; the index of a state is the metric's value for it."""

_PAIR = ("batch", "node")
_BATCH = ("batch",)
_WORKER = ("worker",)

CATALOGUE: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("flowrt_items_total", "counter", "Items that ended, by terminal status.", (*_PAIR, "status")),
        Metric("flowrt_item_errors_total", "counter", "Items that failed, by error type.", (*_PAIR, "error_type")),
        Metric(
            "flowrt_item_attempts_total",
            "counter",
            "Attempts that ended, including retries; hedges have a metric of their own.",
            (*_PAIR, "status"),
        ),
        Metric(
            "flowrt_item_reruns_total",
            "counter",
            "Attempts run again because their worker process ended; an item's attempts do not count them.",
            _PAIR,
        ),
        Metric("flowrt_item_retries_total", "counter", "Retries, by reason.", (*_PAIR, "reason")),
        Metric(
            "flowrt_item_hedges_total",
            "counter",
            "Hedges (second attempts beside a straggler's first), by outcome: won, lost or failed.",
            (*_PAIR, "outcome"),
        ),
        Metric("flowrt_cache_lookups_total", "counter", "Look-ups in the cache, by result.", (*_PAIR, "result")),
        Metric(
            "flowrt_item_duration_seconds",
            "histogram",
            "Time of an item from pulled to ended, in seconds.",
            (*_PAIR, "status"),
        ),
        Metric("flowrt_attempt_duration_seconds", "histogram", "Service time of an attempt, in seconds.", _PAIR),
        Metric(
            "flowrt_item_queue_wait_seconds",
            "histogram",
            "Time of an item from pulled to its first start, in seconds.",
            _PAIR,
        ),
        Metric("flowrt_items_inflight", "gauge", "Items that occupy a slot.", _PAIR),
        Metric(
            "flowrt_items_queued",
            "gauge",
            "Items that wait for a retry, a rate limit or an open circuit.",
            _PAIR,
        ),
        Metric("flowrt_concurrency_limit", "gauge", "Concurrency limit in force: the number of slots.", _PAIR),
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
            "Backoff scheduled between the attempts of ended items, in seconds.",
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
            "State of the node's circuit breaker: 0 closed, 1 half-open, 2 open; 0 if the node has none.",
            _PAIR,
        ),
        Metric("flowrt_batches_total", "counter", "Batches that ended, by status.", ("batch", "status")),
        Metric("flowrt_batches_active", "gauge", "Active batches.", _BATCH),
        Metric("flowrt_batch_items_expected", "gauge", "Items of active batches, where the number is known.", _BATCH),
        Metric("flowrt_batch_items_completed", "gauge", "Items of active batches that have ended.", _BATCH),
        Metric(
            "flowrt_batch_duration_seconds", "histogram", "Time from a batch's start to its end, in seconds.", _BATCH
        ),
        Metric(
            "flowrt_batch_last_success_timestamp_seconds",
            "gauge",
            "Time at which a batch last ended with every item ok, in seconds since 1970; 0 for never.",
            _BATCH,
        ),
        Metric(
            "flowrt_batch_last_completion_timestamp_seconds",
            "gauge",
            "Time at which a batch last ended, whatever its status, in seconds since 1970; 0 for never.",
            _BATCH,
        ),
        Metric(
            "flowrt_batch_speedup_ratio",
            "gauge",
            "Speedup of the last batch over one item at a time. Claimed: sum of execution times over wall time. "
            "Measured: the same without the time for which items delayed each other, or the result of a sample; absent "
            "if it is not known.",
            ("batch", "method"),
        ),
        Metric("flowrt_event_loop_lag_seconds", "histogram", "Delay of the event loop's timers, in seconds.", ()),
        Metric(
            "flowrt_loop_stalls_total", "counter", "Stalls of the event loop, by the node that caused them.", ("node",)
        ),
        Metric(
            "flowrt_telemetry_dropped_total",
            "counter",
            "Telemetry that was not delivered, or counted without its own labels, by reason.",
            ("signal", "reason"),
        ),
        Metric("flowrt_telemetry_queue_size", "gauge", "Spans that wait for export.", ("signal",)),
        Metric(
            "flowrt_telemetry_queue_limit",
            "gauge",
            "Spans that may wait for export, estimated from the size of recent ones; 0 if nothing is exported.",
            ("signal",),
        ),
        Metric(
            "flowrt_worker_busy_seconds_total",
            "counter",
            "Time for which a slot's worker processes ran attempts, in seconds; attempts side by side add up.",
            _WORKER,
        ),
        Metric(
            "flowrt_worker_items_inflight", "gauge", "Items in a worker process, with those that wait in it.", _WORKER
        ),
        Metric(
            "flowrt_worker_resident_memory_bytes",
            "gauge",
            "Resident memory of a worker process at its last message, in bytes.",
            _WORKER,
        ),
        Metric(
            "flowrt_worker_restarts_total",
            "counter",
            "Worker processes that were replaced, by reason: crash, timeout, cancelled, recycled or memory.",
            (*_WORKER, "reason"),
        ),
        Metric(
            "flowrt_transport_duration_seconds",
            "histogram",
            "Time that items were on the way to a worker and back, in seconds: one value for each message of outcomes.",
            (),
        ),
        Metric(
            "flowrt_unaccounted_items",
            "gauge",
            "Difference between the audit's counts of the last batch, in items; expected to be 0.",
            _BATCH,
        ),
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
