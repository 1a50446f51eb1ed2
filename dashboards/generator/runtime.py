"""Runtime dashboard: the process that runs the batches, and whether its telemetry is complete."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import runbook
from dashboards.generator.panels import ERRORS, Panel, Query, lines, number
from dashboards.generator.promql import Chosen
from dashboards.generator.shared import distribution, loop_blocks, percentiles
from dashboards.generator.tables import Column, rows
from dashboards.generator.workers import worker_panels

__all__ = ["runtime"]

_Q: Final = Chosen()

_NONE_ALLOWED: Final = ((None, "green"), (0.5, ERRORS))


def runtime() -> model.Dashboard:
    """Build the dashboard."""
    return frame(
        "flowrt-runtime",
        "flowrt / Runtime and telemetry health",
        "The process that runs the batches, and whether its telemetry is complete.",
        [
            ("", _now()),
            ("Event loop", _loop()),
            ("Process", _process()),
            ("Workers", worker_panels(_Q)),
            ("Telemetry", _telemetry()),
        ],
    )


def _now() -> list[Panel]:
    dropped = _Q.increase("flowrt_telemetry_dropped_total")
    size, limit = _Q.metric("flowrt_telemetry_queue_size"), _Q.metric("flowrt_telemetry_queue_limit")
    return [
        number(
            "Processes down (now)",
            "Processes that Prometheus cannot scrape.",
            "none",
            Query(f"count({_Q.metric('up')} == 0) or vector(0)"),
            steps=_NONE_ALLOWED,
            trend=False,
            links=[runbook("FlowrtTargetDown")],
        ),
        number(
            "Event loop lag (p99, now)",
            "99 % of the event loop's timers are less late than this.",
            "s",
            Query(_Q.at_most(0.99, "flowrt_event_loop_lag_seconds")),
            steps=((None, "green"), (0.1, "#EAB839"), (0.5, ERRORS)),
            decimals=1,
            nothing="no batch",
            links=[runbook("FlowrtEventLoopBlocked")],
        ),
        number(
            "Loop stalls (time shown)",
            "How often a node blocked the event loop.",
            "none",
            Query(f"sum({_Q.increase('flowrt_loop_stalls_total')})"),
            steps=_NONE_ALLOWED,
            decimals=0,
            trend=False,
            links=[runbook("FlowrtEventLoopBlocked")],
        ),
        number(
            "Dropped (time shown)",
            "Spans, log events and exemplars that were not delivered, and series that were merged into _other.",
            "locale",
            Query(f"sum({dropped})"),
            steps=_NONE_ALLOWED,
            decimals=0,
            trend=False,
            links=[runbook("FlowrtTelemetryDropped")],
        ),
        number(
            "Export queue (% full, now)",
            "Spans that wait for export, as a share of the queue. When it is full, spans are dropped.",
            "percentunit",
            Query(f"max({size} / ({limit} > 0))"),
            steps=((None, "green"), (0.7, "#EAB839"), (0.9, ERRORS)),
            decimals=0,
            nothing="no export",
            links=[runbook("FlowrtTelemetryDropped")],
        ),
        number(
            "Items unaccounted for (now)",
            "Items pulled that were never counted as ended. Anything but 0 is a defect.",
            "none",
            Query(f"sum({_Q.metric('flowrt_unaccounted_items')})"),
            steps=_NONE_ALLOWED,
            trend=False,
            links=[runbook("FlowrtItemsUnaccounted")],
        ),
    ]


def _loop() -> list[Panel]:
    lag = "flowrt_event_loop_lag_seconds"
    return [
        lines(
            "Event loop lag (s)",
            "Delay of the event loop's timers while batches are active.",
            "s",
            *percentiles(_Q, lag, 0.5, 0.95, 0.99),
            width=8,
        ),
        distribution("Event loop lag, all timers (s)", _Q, lag, row="lag", what="timers", width=8),
        loop_blocks(_Q),
    ]


def _process() -> list[Panel]:
    return [
        lines(
            "CPU (cores)",
            "Cores in use, by process. Near 1, Python's own work on the event loop is the limit.",
            "short",
            Query(f"sum by (instance) ({_Q.rate('process_cpu_seconds_total')})", "{{instance}}"),
            width=6,
        ),
        lines(
            "Memory (resident bytes)",
            "Resident memory, by process. It does not grow with the length of a batch.",
            "bytes",
            Query(f"max by (instance) ({_Q.metric('process_resident_memory_bytes')})", "{{instance}}"),
            width=6,
        ),
        lines(
            "Garbage collections (per second)",
            "By generation. Frequent collections of generation 2 cost time: the node keeps many objects alive.",
            "suffix: /s",
            Query(f"sum by (generation) ({_Q.rate('python_gc_collections_total')})", "generation {{generation}}"),
            width=6,
        ),
        lines(
            "Open files (% of the limit)",
            "Open file descriptors, connections included, by process.",
            "percentunit",
            Query(
                f"max by (instance) ({_Q.metric('process_open_fds')} / {_Q.metric('process_max_fds')})", "{{instance}}"
            ),
            width=6,
        ),
    ]


def _telemetry() -> list[Panel]:
    size, limit = _Q.metric("flowrt_telemetry_queue_size"), _Q.metric("flowrt_telemetry_queue_limit")
    return [
        lines(
            "Telemetry dropped (per second)",
            "Spans, log events, exemplars and series that were lost, by reason.",
            "suffix: /s",
            Query(
                f"sum by (signal, reason) ({_Q.rate('flowrt_telemetry_dropped_total')}) > 0", "{{signal}}: {{reason}}"
            ),
            shades=ERRORS,
            width=8,
            links=[runbook("FlowrtTelemetryDropped")],
        ),
        lines(
            "Export queue (spans)",
            "Spans that wait for export, and the queue's limit.",
            "short",
            Query(f"sum by (signal) ({size})", "{{signal}} waiting"),
            Query(f"sum by (signal) ({limit})", "limit"),
            width=8,
        ),
        lines(
            "Scrape duration (s)",
            "Time that Prometheus takes to read /metrics.",
            "s",
            Query(f"max by (instance) ({_Q.metric('scrape_duration_seconds')})", "{{instance}}"),
            width=8,
            links=[runbook("FlowrtTargetDown")],
        ),
        rows(
            "Processes (now)",
            "Version, Python and event loop of each process, and its start.",
            ("job", "instance", "version", "python", "loop"),
            [
                Column(
                    "Started",
                    f"max by (job, instance, version, python, loop) ({_Q.metric('flowrt_build_info')}"
                    f" * on (job, instance) group_left () {_Q.metric('process_start_time_seconds')} * 1000)",
                    "dateTimeFromNow",
                )
            ],
            height=5,
            widths={"instance": 150},
        ),
        rows(
            "Disabled instruments (errors, time shown)",
            "Instruments that raised. The batches went on without them; the log has the traceback.",
            ("instance", "instrument"),
            [
                Column(
                    "Errors",
                    f"sum by (instance, instrument) ({_Q.increase('flowrt_instrument_errors_total')}) > 0",
                    "none",
                    ((None, ERRORS),),
                    decimals=0,
                )
            ],
            height=5,
        ),
    ]
