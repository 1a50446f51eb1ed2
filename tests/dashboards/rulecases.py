"""Histories for `promtool test rules`: scraped values, and the alerts expected at each moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["AT_ANY_TIME", "CASES", "IDLE", "Case", "Firing"]

HERE: Final = {"job": "svc", "instance": "a:9464"}
BATCH: Final = {**HERE, "batch": "nightly"}
PAIR: Final = {**BATCH, "node": "fetch"}


@dataclass(frozen=True)
class Firing:
    """Alert that must fire, with its texts.

    Args:
        labels: Labels of the alert, without its name.
        summary: Expected summary.
        description: Expected description.
        dashboard: Expected path of the link to the dashboard.
    """

    labels: dict[str, str]
    summary: str
    description: str
    dashboard: str


@dataclass(frozen=True)
class Case:
    """One history for one alert.

    Args:
        alert: Name of the alert.
        name: Description of the history.
        series: Values by series, in promtool's notation.
        fires: Labels of the alert's instances that fire, by moment; () where none may.
        texts: The whole alert, by moment.
        interval: Time between two values.
    """

    alert: str
    name: str
    series: dict[str, str]
    fires: dict[str, tuple[dict[str, str], ...]] = field(default_factory=dict)
    texts: dict[str, Firing] = field(default_factory=dict)
    interval: str = "1m"


def s(name: str, labels: dict[str, str], **more: str) -> str:
    """Return a series in Prometheus's notation."""
    matched = ", ".join(f'{key}="{value}"' for key, value in {**labels, **more}.items())
    return f"{name}{{{matched}}}"


def items(ok: str, failed: str, **labels: str) -> dict[str, str]:
    """Return counters of items that ended."""
    pair = {**PAIR, **labels}
    return {
        s("flowrt_items_total", pair, status="ok"): ok,
        s("flowrt_items_total", pair, status="failed"): failed,
        s("flowrt_items_total", pair, status="timed_out"): "0x130",
        s("flowrt_items_total", pair, status="cancelled"): "0x130",
        s("flowrt_items_total", pair, status="resumed"): "0x130",
    }


def durations(in_time: str, all_of_them: str) -> dict[str, str]:
    """Return the buckets of successful items' durations that the rules read."""
    return {
        s("flowrt_item_duration_seconds_bucket", PAIR, status="ok", le="10.0"): in_time,
        s("flowrt_item_duration_seconds_bucket", PAIR, status="ok", le="+Inf"): all_of_them,
        s("flowrt_item_duration_seconds_count", PAIR, status="ok"): all_of_them,
        s("flowrt_items_total", PAIR, status="ok"): all_of_them,
    }


IDLE: Final = {
    **items("0x130", "0x130"),
    s("flowrt_item_duration_seconds_bucket", PAIR, status="ok", le="10.0"): "0x130",
    s("flowrt_item_duration_seconds_count", PAIR, status="ok"): "0x130",
    s("flowrt_batches_active", BATCH): "0x130",
    s("flowrt_batch_last_success_timestamp_seconds", BATCH): "0x130",
    s("flowrt_unaccounted_items", BATCH): "0x130",
    s("flowrt_slot_busy_seconds_total", PAIR): "0x130",
    s("flowrt_concurrency_limit", PAIR): "10x130",
    s("flowrt_loop_stalls_total", {**HERE, "node": "fetch"}): "0x130",
    s("flowrt_event_loop_lag_seconds_bucket", HERE, le="0.5"): "0x130",
    s("flowrt_event_loop_lag_seconds_bucket", HERE, le="+Inf"): "0x130",
    s("flowrt_telemetry_dropped_total", {**HERE, "signal": "spans", "reason": "queue_full"}): "0x130",
    s("flowrt_build_info", {**HERE, "version": "1"}): "1x130",
    s("flowrt_worker_restarts_total", {**HERE, "worker": "w0", "reason": "crash"}): "0x130",
    s("up", HERE): "1x130",
    s("process_start_time_seconds", HERE): "0x130",
}
"""An idle service, up for hours."""

AT_ANY_TIME: Final = ("1m", "6m", "1h", "2h")

BURN, LATE = "FlowrtItemErrorBudgetBurn", "FlowrtLatencySLO"
STALLED, MISSING, SATURATED = "FlowrtBatchStalled", "FlowrtBatchMissing", "FlowrtSaturated"
BLOCKED, DROPPED = "FlowrtEventLoopBlocked", "FlowrtTelemetryDropped"
UNACCOUNTED, DOWN, CRASHING = "FlowrtItemsUnaccounted", "FlowrtTargetDown", "FlowrtWorkersCrashing"

PAGE: Final = {"severity": "critical", "long": "1h", "short": "5m"}
SLOWER: Final = {"severity": "critical", "long": "6h", "short": "30m"}
TICKET: Final = {"severity": "warning", "long": "1d", "short": "2h"}
DRIP: Final = {"severity": "warning", "long": "3d", "short": "6h"}
OF_BATCH: Final = {"job": "svc", "batch": "nightly"}


def burns(*pairs: dict[str, str]) -> tuple[dict[str, str], ...]:
    """Return instances of an objective's alert."""
    return tuple({**OF_BATCH, **pair} for pair in pairs)


def silent(*moments: str) -> dict[str, tuple[dict[str, str], ...]]:
    """Return moments at which the alert must not fire."""
    return dict.fromkeys(moments, ())


CASES: Final = (
    # ---- the error budget
    Case(
        BURN,
        "one in five items fails: urgent at once, then over the longer windows too",
        items("0+80x130", "0+20x130")
        | {
            s("flowrt_item_errors_total", PAIR, error_type="ValueError"): "0+3x130",
            s("flowrt_item_errors_total", PAIR, error_type="TimeoutError"): "0+17x130",
            s("flowrt_item_errors_total", PAIR, batch="another", error_type="OSError"): "0+90x130",
        },
        {"20m": burns(PAGE, SLOWER, TICKET, DRIP)},
        {
            "10m": Firing(
                {**OF_BATCH, **PAGE},
                "20% of the items of batch nightly fail",
                "Most failures now: TimeoutError in node fetch. Over 1h and over 5m, batch nightly of svc spent its"
                " error budget more than 14.4 times as fast as the objective allows. The Overview dashboard has every"
                " node that fails, and why.",
                "/d/flowrt-slo/?var-job=svc&var-batch=nightly",
            )
        },
    ),
    Case(
        BURN,
        "failures for an hour, then none: the urgent alert resolves within minutes",
        items("0+80x60 4880+100x60", "0+20x60 1200x60"),
        {"60m": burns(PAGE, SLOWER, TICKET, DRIP), "67m": burns(SLOWER, TICKET, DRIP), "100m": burns(TICKET, DRIP)},
    ),
    Case(
        BURN,
        "8 in 100 items fail: urgent over the longer pair only",
        items("0+92x130", "0+8x130"),
        {"25m": burns(SLOWER, TICKET, DRIP)},
    ),
    Case(
        BURN,
        "4 in 100 items fail: warnings only",
        items("0+96x130", "0+4x130"),
        {"25m": burns(TICKET, DRIP)},
    ),
    Case(
        BURN,
        "2 in 100 items fail: the slowest pair only",
        items("0+98x130", "0+2x130"),
        {"25m": burns(DRIP)},
    ),
    Case(
        BURN,
        "2 in 100 items fail, for two hours",
        items("0+98x130", "0+2x130"),
        texts={
            "60m": Firing(
                {**OF_BATCH, **DRIP},
                "2% of the items of batch nightly fail",
                "Over 3d and over 6h, batch nightly of svc spent its error budget faster than the objective allows."
                " The Overview dashboard has every node that fails, and why.",
                "/d/flowrt-slo/?var-job=svc&var-batch=nightly",
            )
        },
    ),
    Case(BURN, "1 in 200 items fails: within the objective", items("0+199x130", "0+1x130"), silent(*AT_ANY_TIME)),
    Case(
        BURN,
        "timed-out items fail, cancelled and resumed ones do not count",
        {
            s("flowrt_items_total", PAIR, status="ok"): "0+80x60",
            s("flowrt_items_total", PAIR, status="timed_out"): "0+20x60",
            s("flowrt_items_total", {**PAIR, "batch": "other"}, status="ok"): "0+100x60",
            s("flowrt_items_total", {**PAIR, "batch": "other"}, status="cancelled"): "0+100x60",
            s("flowrt_items_total", {**PAIR, "batch": "other"}, status="resumed"): "0+100x60",
        },
        {"30m": burns(PAGE, SLOWER, TICKET, DRIP)},
    ),
    Case(
        BURN,
        "a short batch of 40 items, ten of which fail",
        items("0x5 15 30x90", "0x5 5 10x90"),
        silent("5m", "6m", "7m", "10m", "30m", "90m"),
    ),
    Case(
        BURN,
        "a short batch of 4,000 items, a thousand of which fail",
        items("0x5 1500 3000x90", "0x5 500 1000x90"),
        {"8m": burns(PAGE, SLOWER, TICKET, DRIP), "30m": burns(SLOWER, TICKET, DRIP)},
    ),
    Case(
        BURN,
        "a restart resets the counters",
        items("100000+100x30 0+100x60", "900+0x30 0x60"),
        silent("29m", "31m", "32m", "36m", "60m", "85m"),
    ),
    Case(
        BURN,
        "a restart amid failures changes nothing",
        items("0+80x30 0+80x60", "0+20x30 0+20x60"),
        {"29m": burns(PAGE, SLOWER, TICKET, DRIP), "40m": burns(PAGE, SLOWER, TICKET, DRIP)},
    ),
    Case(
        BURN,
        "the failures of one process among many count for the batch",
        {**items("0+30x60", "0+70x60"), **items("0+9900x60", "0x60", instance="b:9464")},
        silent("10m", "30m"),
    ),
    # ---- latency
    Case(
        LATE,
        "four in five items are late",
        durations("0+20x130", "0+100x130"),
        {"20m": burns(PAGE, SLOWER, TICKET, DRIP)},
        {
            "10m": Firing(
                {**OF_BATCH, **PAGE},
                "80% of the items of batch nightly are late",
                "Over 1h and over 5m, items of batch nightly of svc took longer than the objective's threshold more"
                " than 14.4 times as often as it allows. See on the Node dashboard whether attempts, retries or the"
                " rate limit take the time.",
                "/d/flowrt-slo/?var-job=svc&var-batch=nightly",
            )
        },
    ),
    Case(LATE, "one in ten items is late", durations("0+90x130", "0+100x130"), {"25m": burns(DRIP)}),
    Case(LATE, "one in fifty items is late", durations("0+98x130", "0+100x130"), silent(*AT_ANY_TIME)),
    Case(LATE, "a short batch of 40 items, all late", durations("0x90", "0x5 20 40x90"), silent("6m", "8m", "30m")),
    Case(
        LATE,
        "a short batch of 4,000 items in a new process, all in time",
        durations("_x5 0 1000 4000x30", "_x5 0 1000 4000x30"),
        silent("5m", "6m", "7m", "8m", "9m", "12m", "30m"),
    ),
    Case(
        LATE,
        "a restart resets the histogram",
        durations("100000+99x30 0+99x60", "100900+100x30 0+100x60"),
        silent("29m", "31m", "32m", "36m", "60m"),
    ),
    # ---- a batch that stalls
    Case(
        STALLED,
        "no item ends any more",
        {**items("0+10x10 100x60", "0x70"), s("flowrt_batches_active", BATCH): "1x70"},
        {"12m": (), "20m": (), "40m": ({**BATCH, "severity": "critical"},)},
        {
            "40m": Firing(
                {**BATCH, "severity": "critical"},
                "No item of batch nightly has ended for 15 minutes",
                "Active batches of that name on a:9464: 1. The Batch dashboard says what holds them back; if items hang"
                " in the node, set item_timeout.",
                "/d/flowrt-batch/?var-job=svc&var-instance=a%3A9464&var-batch=nightly",
            )
        },
    ),
    Case(
        STALLED,
        "items that only fail do not count as a stall",
        {**items("0x70", "0+1x70"), s("flowrt_batches_active", BATCH): "1x70"},
        silent("20m", "60m"),
    ),
    Case(
        STALLED,
        "it continues in time",
        {**items("0+10x10 100x8 110+10x60", "0x70"), s("flowrt_batches_active", BATCH): "1x70"},
        silent("18m", "25m", "60m"),
    ),
    Case(
        STALLED,
        "a short batch between two scrapes, and a new one after a restart",
        {**items("0x5 40x30 0x5", "0x40"), s("flowrt_batches_active", BATCH): "0x4 1 0x29 1x5"},
        silent("5m", "6m", "20m", "35m", "39m"),
    ),
    # ---- a batch that is missing
    Case(
        MISSING,
        "the last success is 27 hours old",
        {s("flowrt_batch_last_success_timestamp_seconds", BATCH): "0x5 3600x170"},
        {"26h": (), "28h": ({**OF_BATCH, "severity": "warning"},)},
        {
            "28h": Firing(
                {**OF_BATCH, "severity": "warning"},
                "Batch nightly has not succeeded for 1d 3h 0m 0s",
                "The objectives of svc ask for a success of this batch more often. Check whether its schedule started"
                " it, and whether items of its last run failed.",
                "/d/flowrt-batch/?var-job=svc&var-batch=nightly",
            )
        },
        interval="10m",
    ),
    Case(
        MISSING,
        "a restart clears the success, which the past week still has",
        {
            s("flowrt_batch_last_success_timestamp_seconds", BATCH): "0x5 3600x10 0x160",
            s("process_start_time_seconds", HERE): "0x15 9600x160",
        },
        {"4h": (), "26h": (), "28h": ({**OF_BATCH, "severity": "warning"},)},
        interval="10m",
    ),
    Case(
        MISSING,
        "it never succeeded since the process started",
        {
            s("flowrt_batch_last_success_timestamp_seconds", BATCH): "0x170",
            s("process_start_time_seconds", HERE): "0x170",
        },
        {"25h": (), "27h": ({**OF_BATCH, "severity": "warning"},)},
        interval="10m",
    ),
    Case(
        MISSING,
        "a batch that is not listed has no schedule, and a batch that succeeds is not missing",
        {
            s("flowrt_batch_last_success_timestamp_seconds", {**HERE, "batch": "adhoc"}): "60x300",
            s("flowrt_batch_last_success_timestamp_seconds", BATCH): "0+600x300",
        },
        silent("27h", "49h"),
        interval="10m",
    ),
    Case(
        MISSING,
        "a short batch in another process a day later counts",
        {
            s("flowrt_batch_last_success_timestamp_seconds", BATCH): "3600x10",
            s("flowrt_batch_last_success_timestamp_seconds", {**BATCH, "instance": "b:9464"}): "_x144 86400x1 _x60",
        },
        silent("27h", "33h"),
        interval="10m",
    ),
    # ---- slots
    Case(
        SATURATED,
        "every slot busy for an hour",
        {
            s("flowrt_slot_busy_seconds_total", PAIR): "0+600x120",
            s("flowrt_concurrency_limit", PAIR): "10x120",
        },
        {"40m": (), "60m": ({**OF_BATCH, "node": "fetch", "severity": "info"},)},
        {
            "60m": Firing(
                {**OF_BATCH, "node": "fetch", "severity": "info"},
                "Every slot of node fetch has been busy for 45 minutes",
                "Batch nightly of svc uses 100% of its slots, so max_concurrency limits its pace. If the batch is late"
                " and attempts are as quick as ever, raise max_concurrency.",
                "/d/flowrt-batch/?var-job=svc&var-batch=nightly",
            )
        },
    ),
    Case(
        SATURATED,
        "a pause now and then",
        {
            s("flowrt_slot_busy_seconds_total", PAIR): "0+600x19 11400x10 12000+600x19 23400x10 24000+600x60",
            s("flowrt_concurrency_limit", PAIR): "10x120",
        },
        silent("25m", "45m", "60m", "70m"),
    ),
    Case(
        SATURATED,
        "a short batch that uses all slots, after a restart too",
        {
            s("flowrt_slot_busy_seconds_total", PAIR): "0+600x5 3000x10 0+600x5 3000x90",
            s("flowrt_concurrency_limit", PAIR): "10x120",
        },
        silent("5m", "10m", "20m", "60m"),
    ),
    # ---- the event loop
    Case(
        BLOCKED,
        "a node blocks the loop every other minute",
        {s("flowrt_loop_stalls_total", {**HERE, "node": "parse"}): "0x5 0+0.5x60"},
        {"5m": (), "20m": ({**HERE, "node": "parse", "sign": "stalls", "severity": "warning"},)},
        {
            "20m": Firing(
                {**HERE, "node": "parse", "sign": "stalls", "severity": "warning"},
                "Node parse blocked the event loop 5 times in 10 minutes",
                "Every other item on a:9464 waited meanwhile. The log event loop.blocked has the stack: move that call"
                " to a thread, or use an async client.",
                "/d/flowrt-runtime/?var-job=svc&var-instance=a%3A9464",
            )
        },
    ),
    Case(
        BLOCKED,
        "a culprit that the watchdog cannot name",
        {s("flowrt_loop_stalls_total", {**HERE, "node": "none"}): "0x5 0+0.54x60"},
        texts={
            "20m": Firing(
                {**HERE, "node": "none", "sign": "stalls", "severity": "warning"},
                "Unknown code blocked the event loop 5 times in 10 minutes",
                "Every other item on a:9464 waited meanwhile. The log event loop.blocked has the stack: move that call"
                " to a thread, or use an async client.",
                "/d/flowrt-runtime/?var-job=svc&var-instance=a%3A9464",
            )
        },
    ),
    Case(
        BLOCKED,
        "once or twice is tolerated, and so is a restart",
        {s("flowrt_loop_stalls_total", {**HERE, "node": "parse"}): "7x5 8 9x20 0x40"},
        silent("6m", "8m", "26m", "27m", "40m"),
    ),
    Case(
        BLOCKED,
        "timers are a second late, culprit unknown",
        {
            s("flowrt_event_loop_lag_seconds_bucket", HERE, le="0.5"): "0+900x60",
            s("flowrt_event_loop_lag_seconds_bucket", HERE, le="1.0"): "0+1000x60",
            s("flowrt_event_loop_lag_seconds_bucket", HERE, le="+Inf"): "0+1000x60",
        },
        {"4m": (), "20m": ({**HERE, "sign": "lag", "severity": "warning"},)},
    ),
    Case(
        BLOCKED,
        "a short batch with a moment of lag",
        {
            s("flowrt_event_loop_lag_seconds_bucket", HERE, le="0.5"): "0x5 10+0x60",
            s("flowrt_event_loop_lag_seconds_bucket", HERE, le="1.0"): "0x5 20+0x60",
            s("flowrt_event_loop_lag_seconds_bucket", HERE, le="+Inf"): "0x5 20+0x60",
        },
        silent("6m", "8m", "10m", "20m"),
    ),
    # ---- crashing workers
    Case(
        CRASHING,
        "a worker crashes every other minute, now in this slot, now in that",
        {
            s("flowrt_worker_restarts_total", {**HERE, "worker": "w0", "reason": "crash"}): "0x5 0+0.25x60",
            s("flowrt_worker_restarts_total", {**HERE, "worker": "w1", "reason": "crash"}): "0x5 0+0.25x60",
        },
        {"5m": (), "20m": ({**HERE, "severity": "warning"},)},
        {
            "20m": Firing(
                {**HERE, "severity": "warning"},
                "5 worker processes of a:9464 crashed in 10 minutes",
                "The attempts that ran in them run again, and an item that crashes its worker repeatedly fails. The"
                " live page shows how the last worker of each slot ended, and what it printed.",
                "/d/flowrt-runtime/?var-job=svc&var-instance=a%3A9464",
            )
        },
    ),
    Case(
        CRASHING,
        "two crashes are tolerated, and so are recycled workers and a restart",
        {
            s("flowrt_worker_restarts_total", {**HERE, "worker": "w0", "reason": "crash"}): "7x5 8 9x20 0x40",
            s("flowrt_worker_restarts_total", {**HERE, "worker": "w0", "reason": "recycled"}): "0+2x60",
        },
        silent("6m", "8m", "20m", "27m", "40m"),
    ),
    Case(
        CRASHING,
        "a short batch whose one worker crashed once",
        {s("flowrt_worker_restarts_total", {**HERE, "worker": "w0", "reason": "crash"}): "0x5 1x3 _x20"},
        silent("6m", "8m", "20m"),
    ),
    # ---- dropped telemetry
    Case(
        DROPPED,
        "the export queue is full",
        {s("flowrt_telemetry_dropped_total", {**HERE, "signal": "spans", "reason": "queue_full"}): "0x5 0+30x60"},
        {"5m": (), "20m": ({**HERE, "signal": "spans", "reason": "queue_full", "severity": "warning"},)},
        {
            "20m": Firing(
                {**HERE, "signal": "spans", "reason": "queue_full", "severity": "warning"},
                "a:9464 dropped 300 spans in 10 minutes: queue_full",
                "Results are not affected, but some traces or log events are missing. The runbook has the fix for"
                " queue_full.",
                "/d/flowrt-runtime/?var-job=svc&var-instance=a%3A9464",
            )
        },
    ),
    Case(
        DROPPED,
        "losses long ago, and a restart",
        {s("flowrt_telemetry_dropped_total", {**HERE, "signal": "spans", "reason": "shutdown"}): "500x30 0x60"},
        silent("10m", "31m", "35m", "60m"),
    ),
    # ---- the audit
    Case(
        UNACCOUNTED,
        "two items have no final status",
        {s("flowrt_unaccounted_items", BATCH): "0x5 2x60"},
        {"5m": (), "10m": ({**BATCH, "severity": "warning"},)},
        {
            "10m": Firing(
                {**BATCH, "severity": "warning"},
                "2 items of batch nightly were pulled but never counted as ended",
                "The audit at the batch's end on a:9464 found the difference, which is a defect of flowrt. Please"
                " report it with the log event telemetry.mismatch.",
                "/d/flowrt-runtime/?var-job=svc&var-instance=a%3A9464",
            )
        },
    ),
    Case(
        UNACCOUNTED,
        "a short batch whose counts agree, and a restart",
        {s("flowrt_unaccounted_items", BATCH): "0x60"},
        silent("5m", "30m"),
    ),
    # ---- the target
    Case(
        DOWN,
        "a service that ran for two hours disappears",
        {
            s("up", HERE): "1x59 0x30",
            s("flowrt_build_info", {**HERE, "version": "1"}): "1x59 stale",
            s("process_start_time_seconds", HERE): "0x59 stale",
        },
        {"118m": (), "122m": (), "130m": ({**HERE, "severity": "critical"},)},
        {
            "130m": Firing(
                {**HERE, "severity": "critical"},
                "Prometheus cannot scrape a:9464 of svc",
                "The process ran flowrt for more than an hour and has not answered for 5 minutes. Check whether it is"
                " alive; if it is gone, start it again, with the same journal.",
                "/d/flowrt-overview/?var-job=svc",
            )
        },
        interval="2m",
    ),
    Case(
        DOWN,
        "a restart that takes two minutes",
        {
            s("up", HERE): "1x59 0 1x30",
            s("flowrt_build_info", {**HERE, "version": "1"}): "1x59 stale 1x30",
            s("process_start_time_seconds", HERE): "0x59 stale 7260x30",
        },
        silent("120m", "122m", "126m", "140m"),
        interval="2m",
    ),
    Case(
        DOWN,
        "a short batch whose process ends",
        {
            s("up", HERE): "1x9 0x60",
            s("flowrt_build_info", {**HERE, "version": "1"}): "1x9 stale",
            s("process_start_time_seconds", HERE): "0x9 stale",
        },
        silent("20m", "30m", "130m"),
        interval="2m",
    ),
    Case(
        DOWN,
        "a target that never ran flowrt",
        {s("up", HERE): "0x100", s("process_start_time_seconds", HERE): "0x60 stale"},
        silent("10m", "150m"),
        interval="2m",
    ),
)
