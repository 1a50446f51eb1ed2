"""Recording rules that alerts and the SLO dashboard read. Names have the form `level:metric:operations`."""

from __future__ import annotations

from typing import Any, Final

from dashboards.generator.objectives import LATE
from dashboards.generator.windows import REAL, Time

__all__ = ["BURN_WINDOWS", "ENDED", "FAILED", "recording_groups"]

BURN_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")

ENDED: Final = 'status=~"ok|failed|timed_out"'
"""Items that count for the objective: cancelled and resumed items did not run to the end."""

FAILED: Final = 'status=~"failed|timed_out"'

Rule = dict[str, Any]


def recording_groups(time: Time = REAL) -> dict[str, Any]:
    """Return the content of the rules file.

    Args:
        time: Speed of time.
    """
    short = [window for window in BURN_WINDOWS if window in ("5m", "30m", "1h", "2h")]
    long = [window for window in BURN_WINDOWS if window not in short]
    return {
        "groups": [
            _group("flowrt.items", time.pace("30s"), _items(time)),
            _group("flowrt.objectives.short", time.pace("30s"), [r for w in short for r in _burn(w, time)]),
            _group("flowrt.objectives.long", time.pace("2m"), [r for w in long for r in _burn(w, time)]),
            _group("flowrt.objectives.budget", time.pace("5m"), _budget(time)),
        ]
    }


def _group(name: str, interval: str, rules: list[Rule]) -> dict[str, Any]:
    return {"name": name, "interval": interval, "rules": rules}


def _rule(name: str, expr: str) -> Rule:
    return {"record": name, "expr": expr}


def _items(time: Time) -> list[Rule]:
    w = time.window("5m")
    return [
        _rule(
            "job_batch:flowrt_item_failures:rate5m",
            f"sum by (job, batch) (rate(flowrt_items_total{{{FAILED}}}[{w}]))",
        ),
        _rule(
            "job_instance_batch:flowrt_items:increase5m",
            f"sum by (job, instance, batch) (increase(flowrt_items_total[{w}]))",
        ),
        _rule(
            "job_batch_node:flowrt_slots:utilization_rate5m",
            f"sum by (job, batch, node) (rate(flowrt_slot_busy_seconds_total[{w}]))\n"
            "/\n"
            "(sum by (job, batch, node) (flowrt_concurrency_limit) > 0)",
        ),
        _rule(
            "job_instance:flowrt_event_loop_lag_seconds:p99_rate5m",
            "histogram_quantile(0.99,\n"
            f"  sum by (job, instance, le) (rate(flowrt_event_loop_lag_seconds_bucket[{w}]))\n"
            ")",
        ),
    ]


def _burn(window: str, time: Time) -> list[Rule]:
    w = time.window(window)
    ended = f"job_batch:flowrt_items_ended:rate{window}"
    return [
        _rule(ended, f"sum by (job, batch) (rate(flowrt_items_total{{{ENDED}}}[{w}]))"),
        _rule(
            f"job_batch:flowrt_item_failures:ratio_rate{window}",
            f"sum by (job, batch) (rate(flowrt_items_total{{{FAILED}}}[{w}]))\n/\n({ended} > 0)",
        ),
        _rule(
            f"job_batch:flowrt_items_late:ratio_rate{window}",
            f"sum by (job, batch) (rate({LATE}[{w}]))\n"
            "/\n"
            f'(sum by (job, batch) (rate(flowrt_item_duration_seconds_count{{status="ok"}}[{w}])) > 0)',
        ),
    ]


def _budget(time: Time) -> list[Rule]:
    """Ratio over 30 days, from recorded rates: over raw series the query would read millions of samples."""
    w = time.window("30d")
    return [
        _rule(
            "job_batch:flowrt_item_failures:ratio_rate30d",
            f"sum_over_time(job_batch:flowrt_item_failures:rate5m[{w}])\n"
            "/\n"
            f"(sum_over_time(job_batch:flowrt_items_ended:rate5m[{w}]) > 0)",
        )
    ]
