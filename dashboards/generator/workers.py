"""Panels about the worker processes of remote executors."""

from __future__ import annotations

from dashboards.generator.links import runbook
from dashboards.generator.panels import ERRORS, Panel, Query, lines
from dashboards.generator.promql import LARGEST, Chosen, largest
from dashboards.generator.shared import percentiles

__all__ = ["worker_panels"]


def worker_panels(chosen: Chosen) -> list[Panel]:
    """Panels of a row about workers.

    Args:
        chosen: The dashboard's variables.
    """
    return [
        lines(
            "Workers busy (items at once)",
            "Items that run in each worker process, on average. Plain functions run one by one: near 1, more "
            "workers on more cores help.",
            "short",
            Query(f"sum by (worker) ({chosen.rate('flowrt_worker_busy_seconds_total')})", "{{worker}}"),
            width=8,
        ),
        lines(
            "Items in workers (now)",
            "Items in each worker process: those that run, and those that were sent ahead.",
            "short",
            Query(f"sum by (worker) ({chosen.metric('flowrt_worker_items_inflight')})", "{{worker}}"),
            width=8,
        ),
        lines(
            "Memory of workers (resident bytes)",
            "Resident memory of each worker process at its last message. If it grows without an end, recycle workers.",
            "bytes",
            Query(f"max by (worker) ({chosen.metric('flowrt_worker_resident_memory_bytes')})", "{{worker}}"),
            width=8,
        ),
        lines(
            "Worker restarts (per minute)",
            "Worker processes that were replaced: after a crash, after a time limit, after many items, or over their "
            "memory limit.",
            "suffix: /min",
            Query(f"60 * sum by (reason) ({chosen.rate('flowrt_worker_restarts_total')})", "{{reason}}"),
            shades=ERRORS,
            width=8,
            links=[runbook("FlowrtWorkersCrashing")],
        ),
        lines(
            "Items run again (per minute)",
            f"Attempts that ran again because their worker ended, by node. {LARGEST}",
            "suffix: /min",
            Query(
                largest(f"60 * sum by (batch, node) ({chosen.rate('flowrt_item_reruns_total')})", "batch, node"),
                "{{batch}}: {{node}}",
            ),
            width=8,
        ),
        lines(
            "Way to a worker and back (s)",
            "Time that items were on the way, without their run and their wait in the worker.",
            "s",
            *percentiles(chosen, "flowrt_transport_duration_seconds", 0.5, 0.95, 0.99),
            width=8,
        ),
    ]
