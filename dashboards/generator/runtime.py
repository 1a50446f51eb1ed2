"""Runtime and telemetry health: the process under the batches, and whether what it tells is whole."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import runbook
from dashboards.generator.panels import Panel, Query, lines, number
from dashboards.generator.promql import Chosen
from dashboards.generator.shared import distribution, percentiles
from dashboards.generator.tables import Column, rows

__all__ = ["runtime"]

_Q: Final = Chosen()

_ALL_OR_NOTHING = ((None, "green"), (1, "red"))


def runtime() -> model.Dashboard:
    """The dashboard."""
    return frame(
        "flowrt-runtime",
        "flowrt / Runtime and telemetry health",
        "The process under the batches, and whether what it tells is whole.",
        [
            ("", _now()),
            ("Event loop", _loop()),
            ("Process", _process()),
            ("Telemetry", _telemetry()),
        ],
    )


def _now() -> list[Panel]:
    dropped = _Q.increase("flowrt_telemetry_dropped_total")
    size, limit = _Q.metric("flowrt_telemetry_queue_size"), _Q.metric("flowrt_telemetry_queue_limit")
    return [
        number(
            "Processes down",
            "Of those that were scraped at some time in the time shown.",
            "none",
            Query(f"count({_Q.metric('up')} == 0) or vector(0)"),
            steps=_ALL_OR_NOTHING,
            trend=False,
            links=[runbook("FlowrtTargetDown")],
        ),
        number(
            "Event loop lag",
            "99 of 100 timers are less late than this.",
            "s",
            Query(_Q.quantile(0.99, "flowrt_event_loop_lag_seconds")),
            steps=((None, "green"), (0.1, "#EAB839"), (0.5, "red")),
            decimals=1,
            nothing="no batch",
            links=[runbook("FlowrtEventLoopBlocked")],
        ),
        number(
            "Loop blocked",
            "Times that a node blocked the event loop in the time shown.",
            "none",
            Query(f"sum({_Q.increase('flowrt_loop_stalls_total')})"),
            steps=_ALL_OR_NOTHING,
            decimals=0,
            trend=False,
            links=[runbook("FlowrtEventLoopBlocked")],
        ),
        number(
            "Telemetry lost",
            "Spans, log events, exemplars and series that were not delivered or not kept apart in the time shown.",
            "short",
            Query(f"sum({dropped})"),
            steps=_ALL_OR_NOTHING,
            decimals=0,
            trend=False,
            links=[runbook("FlowrtTelemetryDropped")],
        ),
        number(
            "Export queue",
            "How full it is with spans on their way out.",
            "percentunit",
            Query(f"max({size} / ({limit} > 0))"),
            steps=((None, "green"), (0.7, "#EAB839"), (0.9, "red")),
            decimals=0,
            nothing="nothing exported",
            links=[runbook("FlowrtTelemetryDropped")],
        ),
        number(
            "Items unaccounted for",
            "Items pulled that were never counted as ended. It must be 0.",
            "none",
            Query(f"sum({_Q.metric('flowrt_unaccounted_items')})"),
            steps=_ALL_OR_NOTHING,
            trend=False,
            links=[runbook("FlowrtItemsUnaccounted")],
        ),
    ]


def _loop() -> list[Panel]:
    lag = "flowrt_event_loop_lag_seconds"
    return [
        lines(
            "How late timers run",
            "The event loop's lag, while batches are under way.",
            "s",
            *percentiles(_Q, lag, 0.5, 0.95, 0.99),
            width=8,
        ),
        distribution("How late timers run, all of them", _Q, lag, row="lag", what="timers", width=8),
        lines(
            "Times that a node blocked the loop",
            "By culprit. The log event loop.blocked has the item and the stack.",
            "short",
            Query(f"sum by (node) ({_Q.increase('flowrt_loop_stalls_total', window='$__rate_interval')})", "{{node}}"),
            width=8,
            links=[runbook("FlowrtEventLoopBlocked")],
        ),
    ]


def _process() -> list[Panel]:
    return [
        lines(
            "CPU",
            "Cores in use, by process. Near 1, Python's own work on the event loop is the limit.",
            "short",
            Query(f"sum by (instance) ({_Q.rate('process_cpu_seconds_total')})", "{{instance}}"),
            width=6,
        ),
        lines(
            "Memory",
            "Resident memory, by process. It does not grow with the length of a batch.",
            "bytes",
            Query(f"max by (instance) ({_Q.metric('process_resident_memory_bytes')})", "{{instance}}"),
            width=6,
        ),
        lines(
            "Garbage collections",
            "By generation. Many of generation 2 cost time: the node keeps much alive.",
            "suffix: /s",
            Query(f"sum by (generation) ({_Q.rate('python_gc_collections_total')})", "generation {{generation}}"),
            width=6,
        ),
        lines(
            "Open files, of those allowed",
            "Connections count too.",
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
            "Lost, by what and why",
            "What was not delivered, or not kept apart.",
            "suffix: /s",
            Query(
                f"sum by (signal, reason) ({_Q.rate('flowrt_telemetry_dropped_total')}) > 0", "{{signal}}: {{reason}}"
            ),
            width=8,
            links=[runbook("FlowrtTelemetryDropped")],
        ),
        lines(
            "Export queue",
            "Spans on their way out, and how many may wait.",
            "short",
            Query(f"sum by (signal) ({size})", "{{signal}} waiting"),
            Query(f"sum by (signal) ({limit})", "limit"),
            width=8,
        ),
        lines(
            "Time to scrape",
            "How long Prometheus takes to read /metrics.",
            "s",
            Query(f"max by (instance) ({_Q.metric('scrape_duration_seconds')})", "{{instance}}"),
            width=8,
            links=[runbook("FlowrtTargetDown")],
        ),
        rows(
            "Processes",
            "What runs where, since when.",
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
            "Instruments that were switched off",
            "They raised; the batches went on without them. The log has the traceback.",
            ("instance", "instrument"),
            [
                Column(
                    "Errors",
                    f"sum by (instance, instrument) ({_Q.increase('flowrt_instrument_errors_total')}) > 0",
                    "none",
                    decimals=0,
                )
            ],
            height=5,
        ),
    ]
