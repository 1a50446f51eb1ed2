"""Alerts: each says what is wrong, links to its dashboard and its runbook, and is silent where nothing is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dashboards.generator.links import GRAFANA, runbook_path
from dashboards.generator.objectives import FAILURE_RATIO, LATE_RATIO, SUCCESS_INTERVAL
from dashboards.generator.windows import REAL, Time

__all__ = ["BURNS", "MINIMUM_ITEMS", "alert_groups"]

MINIMUM_ITEMS: Final = 100
"""Items that must have ended in the long window: of a handful, one failure would already be a burning budget."""


@dataclass(frozen=True, slots=True)
class Burn:
    """One pair of windows in which the budget must burn too fast.

    Args:
        factor: How many times faster than it may.
        long: The window that says that it matters.
        short: The window that says that it goes on.
        severity: How urgent it is.
    """

    factor: float
    long: str
    short: str
    severity: str


BURNS: Final = (
    Burn(14.4, "1h", "5m", "critical"),
    Burn(6, "6h", "30m", "critical"),
    Burn(3, "1d", "2h", "warning"),
    Burn(1, "3d", "6h", "warning"),
)


def alert_groups(time: Time = REAL) -> dict[str, Any]:
    """The rules file.

    Args:
        time: How fast time goes.
    """
    groups = {"flowrt.objectives.alerts": _objectives(time), "flowrt.alerts": _others(time)}
    return {"groups": [{"name": name, "interval": time.pace("30s"), "rules": rules} for name, rules in groups.items()]}


def _objectives(time: Time) -> list[dict[str, Any]]:
    return [
        *(
            _alert(
                "FlowrtItemErrorBudgetBurn",
                _burning("job_batch:flowrt_item_failures", FAILURE_RATIO, burn, time),
                severity=burn.severity,
                summary="{{ $value | humanizePercentage }} of the items of batch {{ $labels.batch }} fail",
                description=(
                    f"Over {burn.long} and over {burn.short}, batch {{{{ $labels.batch }}}} of {{{{ $labels.job }}}}"
                    f" has spent its error budget more than {burn.factor:g} times as fast as it may."
                ),
                dashboard="flowrt-slo",
                variables=("job", "batch"),
                labels={"long": burn.long, "short": burn.short},
            )
            for burn in BURNS
        ),
        *(
            _alert(
                "FlowrtLatencySLO",
                _burning("job_batch:flowrt_items_late", LATE_RATIO, burn, time),
                severity=burn.severity,
                summary="{{ $value | humanizePercentage }} of the items of batch {{ $labels.batch }} are late",
                description=(
                    f"Over {burn.long} and over {burn.short}, items of batch {{{{ $labels.batch }}}} of"
                    " {{ $labels.job }} took longer than the objective's threshold more than"
                    f" {burn.factor:g} times as often as they may."
                ),
                dashboard="flowrt-slo",
                variables=("job", "batch"),
                labels={"long": burn.long, "short": burn.short},
            )
            for burn in BURNS
        ),
    ]


def _burning(ratio: str, objective: str, burn: Burn, time: Time) -> str:
    limit = f"{burn.factor:g} * scalar({objective})"
    ended = f"job_batch:flowrt_items_ended:rate{burn.long} * {time.length_s(burn.long):g}"
    return (
        f"{ratio}:ratio_rate{burn.long} > {limit}\n"
        f"and {ratio}:ratio_rate{burn.short} > {limit}\n"
        f"and {ended} >= {MINIMUM_ITEMS}"
    )


def _others(time: Time) -> list[dict[str, Any]]:
    return [
        _alert(
            "FlowrtBatchStalled",
            "sum by (job, instance, batch) (flowrt_batches_active) > 0\n"
            "and job_instance_batch:flowrt_items:increase5m == 0",
            wait=time.pace("10m"),
            severity="critical",
            summary="Batch {{ $labels.batch }} is under way, but no item has ended for a quarter of an hour",
            description="On {{ $labels.instance }}, {{ $value }} batches are active and none of their items ends.",
            dashboard="flowrt-batch",
            variables=("job", "instance", "batch"),
        ),
        _alert(
            "FlowrtBatchMissing",
            _missing(time),
            severity="warning",
            summary="Batch {{ $labels.batch }} has not succeeded for {{ $value | humanizeDuration }}",
            description=(
                "Batch {{ $labels.batch }} of {{ $labels.job }} is listed among those that have to succeed again and"
                " again, and its time is over."
            ),
            dashboard="flowrt-batch",
            variables=("job", "batch"),
        ),
        _alert(
            "FlowrtSaturated",
            f"min_over_time(job_batch_node:flowrt_slots:utilization_rate5m[{time.window('15m')}]) > 0.95",
            wait=time.pace("30m"),
            severity="info",
            summary="Every slot of node {{ $labels.node }} has been busy for three quarters of an hour",
            description=(
                "Batch {{ $labels.batch }} of {{ $labels.job }} uses {{ $value | humanizePercentage }} of its slots: it"
                " can go no faster at this concurrency."
            ),
            dashboard="flowrt-batch",
            variables=("job", "batch"),
        ),
        _alert(
            "FlowrtEventLoopBlocked",
            f"sum by (job, instance, node) (increase(flowrt_loop_stalls_total[{time.window('10m')}])) > 2.5",
            severity="warning",
            labels={"sign": "stalls"},
            summary="Node {{ $labels.node }} blocks the event loop",
            description=(
                "On {{ $labels.instance }} it did {{ $value | humanize }} times in ten minutes; every other item"
                " waited meanwhile."
            ),
            dashboard="flowrt-runtime",
            variables=("job", "instance"),
        ),
        _alert(
            "FlowrtEventLoopBlocked",
            "job_instance:flowrt_event_loop_lag_seconds:p99_rate5m > 0.5",
            wait=time.pace("5m"),
            severity="warning",
            labels={"sign": "lag"},
            summary="The event loop of {{ $labels.instance }} is {{ $value | humanizeDuration }} late",
            description="One timer in a hundred of {{ $labels.job }} runs that late, and every item waits as long.",
            dashboard="flowrt-runtime",
            variables=("job", "instance"),
        ),
        _alert(
            "FlowrtTelemetryDropped",
            "sum by (job, instance, signal, reason)"
            f" (increase(flowrt_telemetry_dropped_total[{time.window('10m')}])) > 0",
            severity="warning",
            summary="{{ $labels.instance }} loses {{ $labels.signal }}: {{ $labels.reason }}",
            description="About {{ $value | humanize }} were lost in ten minutes. Results are not affected.",
            dashboard="flowrt-runtime",
            variables=("job", "instance"),
        ),
        _alert(
            "FlowrtItemsUnaccounted",
            "max by (job, instance, batch) (flowrt_unaccounted_items) > 0",
            severity="warning",
            summary="{{ $value }} items of batch {{ $labels.batch }} were pulled but never counted as ended",
            description="The audit at a batch's end on {{ $labels.instance }} found it: please report it as a defect.",
            dashboard="flowrt-runtime",
            variables=("job", "instance"),
        ),
        _alert(
            "FlowrtTargetDown",
            _down(time),
            wait=time.pace("5m"),
            severity="critical",
            summary="{{ $labels.instance }} of {{ $labels.job }} cannot be scraped",
            description="It ran flowrt for more than an hour and has not answered for five minutes.",
            dashboard="flowrt-overview",
            variables=("job",),
        ),
    ]


def _missing(time: Time) -> str:
    """Since the last success that is remembered, or since the process started where there has been none.

    The process forgets at a restart, so the past week is asked.
    """
    last = "flowrt_batch_last_success_timestamp_seconds"
    week = time.window("7d")
    return (
        "(\n"
        f"  time() - (\n"
        f"    max by (job, batch) (max_over_time({last}[{week}])) > 0\n"
        f"    or max by (job, batch) (0 * {last} + on (job, instance) group_left () process_start_time_seconds)\n"
        "  )\n"
        ")\n"
        f"> on (batch) group_left () {SUCCESS_INTERVAL}"
    )


def _down(time: Time) -> str:
    """A process that ran for an hour was no short job whose end is meant."""
    day, hour = time.window("1d"), time.length_s("1h")
    lived = f"max_over_time((time() - process_start_time_seconds)[{day}:{time.window('5m')}]) > {hour:g}"
    return f"up == 0\nand on (job, instance) max_over_time(flowrt_build_info[{day}])\nand on (job, instance) {lived}"


def _alert(
    name: str,
    expr: str,
    *,
    severity: str,
    summary: str,
    description: str,
    dashboard: str,
    variables: tuple[str, ...],
    wait: str | None = None,
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    chosen = "&".join(f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in variables)
    return {
        "alert": name,
        "expr": expr,
        **({} if wait is None else {"for": wait}),
        "labels": {"severity": severity, **(labels or {})},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": GRAFANA + runbook_path(name),
            "dashboard_url": f"{GRAFANA}/d/{dashboard}/?{chosen}",
        },
    }
