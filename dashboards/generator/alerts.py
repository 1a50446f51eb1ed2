"""Alerts. Each summary says what happened, with the value; each description says what it means and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dashboards.generator.links import GRAFANA, runbook_path
from dashboards.generator.objectives import FAILURE_RATIO, LATE_RATIO, SUCCESS_INTERVAL
from dashboards.generator.windows import REAL, Time

__all__ = ["BURNS", "MINIMUM_ITEMS", "alert_groups"]

MINIMUM_ITEMS: Final = 100
"""Items that must have ended in the long window: in a small batch, one failure alone would burn the budget."""


@dataclass(frozen=True, slots=True)
class Burn:
    """Pair of windows over which a budget must burn too fast.

    Args:
        factor: Burn rate above which the alert fires, as a multiple of the rate that the objective allows.
        long: Window that shows that the burn matters.
        short: Window that shows that the burn continues.
        severity: Label of the alert.
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
    """Return the content of the rules file.

    Args:
        time: Speed of time.
    """
    others = [*_batch_alerts(time), *_loop_alerts(time), *_telemetry_alerts(time), *_process_alerts(time)]
    groups = {"flowrt.objectives.alerts": _objectives(time), "flowrt.alerts": others}
    return {"groups": [{"name": name, "interval": time.pace("30s"), "rules": rules} for name, rules in groups.items()]}


_COUNT: Final = '{{ $value | printf "%.0f" }}'
"""Value of an alert as a whole number: `increase` extrapolates to fractions."""

_CULPRIT: Final = '{{ if eq $labels.node "none" }}Unknown code{{ else }}Node {{ $labels.node }}{{ end }}'
"""Subject of an alert on the event loop: `none` is the node of a stall whose culprit the watchdog could not name."""


def _most_failures(time: Time) -> str:
    """Return a sentence with the node and the error type of most failures; empty if none is known, as of a restart."""
    errors = f"rate(flowrt_item_errors_total{{job=%q, batch=%q}}[{time.window('5m')}])"
    query = f"topk(1, sum by (node, error_type) ({errors}) > 0)"
    return (
        f"{{{{ with printf `{query}` $labels.job $labels.batch | query }}}}{{{{ with first . }}}}"
        'Most failures now: {{ label "error_type" . }} in node {{ label "node" . }}. {{ end }}{{ end }}'
    )


def _objectives(time: Time) -> list[dict[str, Any]]:
    batch = "batch {{ $labels.batch }} of {{ $labels.job }}"
    share = "{{ $value | humanizePercentage }} of the items of batch {{ $labels.batch }}"
    return [
        *(
            _alert(
                "FlowrtItemErrorBudgetBurn",
                _burning("job_batch:flowrt_item_failures", FAILURE_RATIO, burn, time),
                severity=burn.severity,
                summary=f"{share} fail",
                description=(
                    f"{_most_failures(time)}Over {burn.long} and over {burn.short}, {batch} spent its error budget"
                    f" {_times(burn, 'as fast as', 'faster than')} the objective allows. The Overview dashboard has"
                    " every node that fails, and why."
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
                summary=f"{share} are late",
                description=(
                    f"Over {burn.long} and over {burn.short}, items of {batch} took longer than the objective's"
                    f" threshold {_times(burn, 'as often as', 'more often than')} it allows. See on the Node dashboard"
                    " whether attempts, retries or the rate limit take the time."
                ),
                dashboard="flowrt-slo",
                variables=("job", "batch"),
                labels={"long": burn.long, "short": burn.short},
            )
            for burn in BURNS
        ),
    ]


def _times(burn: Burn, equal: str, more: str) -> str:
    return more if burn.factor == 1 else f"more than {burn.factor:g} times {equal}"


def _burning(ratio: str, objective: str, burn: Burn, time: Time) -> str:
    limit = f"{burn.factor:g} * scalar({objective})"
    ended = f"job_batch:flowrt_items_ended:rate{burn.long} * {time.length_s(burn.long):g}"
    return (
        f"{ratio}:ratio_rate{burn.long} > {limit}\n"
        f"and {ratio}:ratio_rate{burn.short} > {limit}\n"
        f"and {ended} >= {MINIMUM_ITEMS}"
    )


def _batch_alerts(time: Time) -> list[dict[str, Any]]:
    return [
        _alert(
            "FlowrtBatchStalled",
            "sum by (job, instance, batch) (flowrt_batches_active) > 0\n"
            "and job_instance_batch:flowrt_items:increase5m == 0",
            wait=time.pace("10m"),
            severity="critical",
            summary="No item of batch {{ $labels.batch }} has ended for 15 minutes",
            description=(
                "Active batches of that name on {{ $labels.instance }}: {{ $value }}. The Batch dashboard says what"
                " holds them back; if items hang in the node, set item_timeout."
            ),
            dashboard="flowrt-batch",
            variables=("job", "instance", "batch"),
        ),
        _alert(
            "FlowrtBatchMissing",
            _missing(time),
            severity="warning",
            summary="Batch {{ $labels.batch }} has not succeeded for {{ $value | humanizeDuration }}",
            description=(
                "The objectives of {{ $labels.job }} ask for a success of this batch more often. Check whether its"
                " schedule started it, and whether items of its last run failed."
            ),
            dashboard="flowrt-batch",
            variables=("job", "batch"),
        ),
        _alert(
            "FlowrtSaturated",
            f"min_over_time(job_batch_node:flowrt_slots:utilization_rate5m[{time.window('15m')}]) > 0.95",
            wait=time.pace("30m"),
            severity="info",
            summary="Every slot of node {{ $labels.node }} has been busy for 45 minutes",
            description=(
                "Batch {{ $labels.batch }} of {{ $labels.job }} uses {{ $value | humanizePercentage }} of its slots, so"
                " max_concurrency limits its pace. If the batch is late and attempts are as quick as ever, raise"
                " max_concurrency."
            ),
            dashboard="flowrt-batch",
            variables=("job", "batch"),
        ),
    ]


def _loop_alerts(time: Time) -> list[dict[str, Any]]:
    return [
        _alert(
            "FlowrtEventLoopBlocked",
            f"sum by (job, instance, node) (increase(flowrt_loop_stalls_total[{time.window('10m')}])) > 2.5",
            severity="warning",
            labels={"sign": "stalls"},
            summary=f"{_CULPRIT} blocked the event loop {_COUNT} times in 10 minutes",
            description=(
                "Every other item on {{ $labels.instance }} waited meanwhile. The log event loop.blocked has the stack:"
                " move that call to a thread, or use an async client."
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
            description=(
                "1 % of the timers of {{ $labels.job }} run that late or later, and items wait as long. If the CPU is"
                " near one core, lower the concurrency or run more processes; else look for a blocking call."
            ),
            dashboard="flowrt-runtime",
            variables=("job", "instance"),
        ),
    ]


def _telemetry_alerts(time: Time) -> list[dict[str, Any]]:
    return [
        _alert(
            "FlowrtTelemetryDropped",
            "sum by (job, instance, signal, reason)"
            f" (increase(flowrt_telemetry_dropped_total[{time.window('10m')}])) > 0",
            severity="warning",
            summary=(
                f"{{{{ $labels.instance }}}} dropped {_COUNT} {{{{ $labels.signal }}}} in 10 minutes:"
                " {{ $labels.reason }}"
            ),
            description=(
                "Results are not affected, but some traces or log events are missing. The runbook has the fix for"
                " {{ $labels.reason }}."
            ),
            dashboard="flowrt-runtime",
            variables=("job", "instance"),
        ),
        _alert(
            "FlowrtItemsUnaccounted",
            "max by (job, instance, batch) (flowrt_unaccounted_items) > 0",
            severity="warning",
            summary="{{ $value }} items of batch {{ $labels.batch }} were pulled but never counted as ended",
            description=(
                "The audit at the batch's end on {{ $labels.instance }} found the difference, which is a defect of"
                " flowrt. Please report it with the log event telemetry.mismatch."
            ),
            dashboard="flowrt-runtime",
            variables=("job", "instance"),
        ),
    ]


def _process_alerts(time: Time) -> list[dict[str, Any]]:
    return [
        _alert(
            "FlowrtTargetDown",
            _down(time),
            wait=time.pace("5m"),
            severity="critical",
            summary="Prometheus cannot scrape {{ $labels.instance }} of {{ $labels.job }}",
            description=(
                "The process ran flowrt for more than an hour and has not answered for 5 minutes. Check whether it is"
                " alive; if it is gone, start it again, with the same journal."
            ),
            dashboard="flowrt-overview",
            variables=("job",),
        ),
        _alert(
            "FlowrtWorkersCrashing",
            "sum by (job, instance)"
            f' (increase(flowrt_worker_restarts_total{{reason="crash"}}[{time.window("10m")}])) > 2.5',
            severity="warning",
            summary=f"{_COUNT} worker processes of {{{{ $labels.instance }}}} crashed in 10 minutes",
            description=(
                "The attempts that ran in them run again, and an item that crashes its worker repeatedly fails. The"
                " live page shows how the last worker of each slot ended, and what it printed."
            ),
            dashboard="flowrt-runtime",
            variables=("job", "instance"),
        ),
    ]


def _missing(time: Time) -> str:
    """Time since the last success, or since the process's start if it had none, beyond the objective's interval.

    A restart clears the metric, so the query looks back over a week.
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
    """Target that is down after an hour or more: a process that ran for less is a short job, whose end is no outage."""
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
