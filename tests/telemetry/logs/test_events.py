"""Log events through structlog, and through the standard library if structlog is not configured."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from flowrt import BatchProcessor, BatchRecord, RateLimit, Telemetry
from flowrt.attribution.speedup import Speedup
from flowrt.engine.instrument import Instrument, Phase, instrument_errors
from flowrt.telemetry.logs import events as events_module
from flowrt.telemetry.logs.events import log_event
from flowrt.telemetry.metrics.store import METRICS

Run = Callable[[Any], Any]
Events = list[dict[str, Any]]


async def odd_fails(x: int) -> int:
    await asyncio.sleep(0)
    if x % 2:
        raise ValueError(f"odd {x}")
    return x


def of(events: Events, name: str) -> Events:
    return [event for event in events if event["event"] == name]


def test_batch_logs_start_and_completion(run: Run, events: Events) -> None:
    run(BatchProcessor(odd_fails, 4, name="things").batch(range(6)))
    (started,) = of(events, "batch.started")
    (completed,) = of(events, "batch.completed")
    assert started["level"] == completed["level"] == "info"
    assert started["expected"] == 6
    assert started["limit"] == 4
    assert (completed["completed"], completed["ok"], completed["failed"]) == (6, 3, 3)
    assert started["batch_id"] == completed["batch_id"]
    assert started["batch"] == "things"


class OverstatedInterval(Instrument):
    """Gives a batch in threads a speedup of which only the interval is known, far below the claim."""

    phase = Phase.SAMPLE

    def batch_ended(self, batch: BatchRecord) -> None:
        batch.speedup = Speedup(9.0, None, 1.0, 2.0, method="cpu")


def test_overstated_speedup_is_logged_if_only_its_interval_is_known(run: Run, events: Events) -> None:
    before = dict(instrument_errors)
    run(BatchProcessor(odd_fails, 4, instruments=[OverstatedInterval()]).batch([0, 2]))
    (overstated,) = of(events, "speedup.overstated")
    assert (overstated["claimed"], overstated["low"], overstated["high"]) == (9.0, 1.0, 2.0)
    assert "measured" not in overstated
    assert instrument_errors == before


@pytest.mark.parametrize(("limit", "level"), [(None, "warning"), (RateLimit(1, per=10, burst=1), "info")])
def test_overstated_speedup_is_no_warning_where_the_rate_limit_bounds_the_batch(
    run_virtual: Run, events: Events, limit: RateLimit | None, level: str
) -> None:
    async def waits(_: int) -> None:
        await asyncio.sleep(1)

    run_virtual(BatchProcessor(waits, 4, rate_limit=limit, instruments=[OverstatedInterval()]).batch(range(8)))
    (overstated,) = of(events, "speedup.overstated")
    assert overstated["level"] == level


def test_failed_item_logs_a_warning_with_its_error(run: Run, events: Events) -> None:
    run(BatchProcessor(odd_fails, 4).batch([7]))
    (failed,) = of(events, "item.failed")
    assert failed["level"] == "warning"
    assert failed["item_index"] == 0
    assert failed["error_type"] == "ValueError"
    assert failed["error"] == "odd 7"
    assert failed["status"] == "failed"
    assert failed["node"] == "odd_fails"


def test_secret_in_an_error_is_redacted_in_events(run: Run, events: Events) -> None:
    async def leaks(_: int) -> None:
        raise ConnectionError("401 for https://me:canary@h/v1?api_key=canary")

    (result,) = run(BatchProcessor(leaks).batch([1]))
    (failed,) = of(events, "item.failed")
    assert failed["error"] == "401 for https://[redacted]@h/v1?[redacted]"
    assert "canary" in result.error, "results keep the text"
    run(BatchProcessor(leaks, telemetry=Telemetry(redact=None)).batch([1]))
    run(BatchProcessor(leaks, telemetry=Telemetry(redact=lambda text: text[:3])).batch([1]))
    assert [event["error"] for event in of(events, "item.failed")[1:]] == [result.error, "401"]


def test_warnings_are_rate_limited_and_suppressed_ones_counted(run: Run, events: Events) -> None:
    run(BatchProcessor(odd_fails, 4).batch([1] * 5_000))
    warnings = of(events, "item.failed")
    (completed,) = of(events, "batch.completed")
    assert 20 <= len(warnings) < 100
    assert len(warnings) + completed.get("suppressed", 0) + sum(e.get("suppressed", 0) for e in warnings) == 5_000


def test_warnings_of_many_small_batches_are_rate_limited_together(run_virtual: Run, events: Events) -> None:
    async def service() -> None:
        small = BatchProcessor(odd_fails, name="request")
        for _ in range(100):
            await small.batch([1, 3, 5])
        await BatchProcessor(odd_fails, name="other").batch([1])
        await asyncio.sleep(7)
        await small.batch([1] * 9)

    run_virtual(service())
    warnings, ended = of(events, "item.failed"), of(events, "batch.completed")
    assert [warning["batch"] for warning in warnings] == ["request"] * 20 + ["other"] + ["request"] * 7
    assert [batch.get("suppressed", 0) for batch in ended] == [0] * 6 + [1] + [3] * 93 + [0, 2]


def test_allowances_of_warnings_are_bounded(run_virtual: Run, events: Events) -> None:
    async def service() -> int:
        for number in range(1_005):
            await BatchProcessor(odd_fails, name=f"request {number}").batch([1])
        return len(events_module._allowances[asyncio.get_running_loop()])

    assert run_virtual(service()) == 1_000
    assert len(of(events, "item.failed")) == 1_005


def test_timeout_logs_its_own_event(run_virtual: Run, events: Events) -> None:
    run_virtual(BatchProcessor(asyncio.sleep, item_timeout=1).batch([5]))
    (timed_out,) = of(events, "item.timed_out")
    assert timed_out["duration_s"] == 1


def test_progress_is_logged_at_most_every_ten_seconds(run_virtual: Run, events: Events) -> None:
    run_virtual(BatchProcessor(asyncio.sleep, 1).batch([1] * 95))
    assert len(of(events, "batch.progress")) == 9


def test_batch_without_progress_logs_one_stall(run_virtual: Run, events: Events) -> None:
    run_virtual(BatchProcessor(asyncio.sleep, 1).batch([600]))
    (stalled,) = of(events, "batch.stalled")
    assert stalled["level"] == "warning"
    assert stalled["inflight"] == 1


def test_item_events_have_trace_ids(run: Run, events: Events, spans: Any) -> None:
    (result,) = run(BatchProcessor(odd_fails).batch([1]))
    (failed,) = of(events, "item.failed")
    assert failed["trace_id"] == result.trace_id
    assert failed["span_id"] == result.span_id


@pytest.mark.parametrize(
    ("level", "telemetry", "expected"),
    [
        (logging.DEBUG, Telemetry(), 0),
        (logging.INFO, Telemetry(item_events=True), 0),
        (logging.DEBUG, Telemetry(item_events=True), 3),
    ],
)
def test_completed_items_are_logged_at_debug_on_request(
    run: Run, level: int, telemetry: Telemetry, expected: int
) -> None:
    lines = structlog.testing.CapturingLoggerFactory()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lines,
    )
    try:
        run(BatchProcessor(odd_fails, telemetry=telemetry).batch([0, 2, 4]))
    finally:
        structlog.reset_defaults()
    logged = [json.loads(call.args[0]) for call in lines.logger.calls]
    assert sum(event["event"] == "item.completed" for event in logged) == expected


def test_standard_logger_gets_one_line_per_event_without_structlog(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(_: int) -> None:
        raise ValueError('two\nlines, "quoted" and \udc80')

    with caplog.at_level(logging.INFO, "flowrt"):
        run(BatchProcessor(fails).batch([1]))
    (failed,) = [r.getMessage() for r in caplog.records if "item.failed" in r.getMessage()]
    assert "\n" not in failed
    assert 'error="two\\nlines' in failed
    failed.encode("utf-8")


def test_logs_can_be_disabled(run: Run, events: Events) -> None:
    run(BatchProcessor(odd_fails, telemetry=Telemetry(logs=False)).batch([1]))
    assert events == []


def test_unconfigured_process_prints_nothing() -> None:
    code = """
import asyncio, logging, flowrt
logging.getLogger("asyncio").setLevel("ERROR")  # -X dev warns of each turn that a busy machine makes slow
async def fails(x): raise ValueError(x)
results = asyncio.run(flowrt.BatchProcessor(fails).batch(range(5)))
assert results.success_rate == 0
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        (structlog.stdlib.BoundLogger, ["batch.started", "batch.completed"]),
        (structlog.BoundLogger, ["batch.started", "batch.completed"]),
        (structlog.BoundLoggerBase, []),  # which has no methods for the levels
    ],
)
def test_batch_runs_with_any_structlog_wrapper(run: Run, wrapper: type[Any], expected: list[str]) -> None:
    """One wrapper asks a logger without levels for its level, another takes the question for an event."""
    logged: Events = []

    def keep(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        logged.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=wrapper)
    try:
        results = run(BatchProcessor(odd_fails).batch([0, 2, 4]))
    finally:
        structlog.reset_defaults()
    assert [result.output for result in results] == [0, 2, 4]
    assert [event["event"] for event in logged] == expected


class AsyncWrapper(structlog.BoundLogger):
    """Wrapper of an application whose methods are coroutines, without a synchronous logger."""

    async def _log(self, event: str, **fields: Any) -> None:
        await asyncio.sleep(0)
        self._proxy_to_logger("msg", event, **fields)

    debug = info = warning = error = _log  # type: ignore[assignment]


@pytest.mark.parametrize("wrapper", [structlog.stdlib.AsyncBoundLogger, AsyncWrapper])
def test_async_wrapper_gets_every_event(run: Run, wrapper: type[Any]) -> None:
    logged: Events = []

    def keep(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        logged.append(event)
        raise structlog.DropEvent

    async def main() -> None:
        await BatchProcessor(odd_fails).batch([0, 1, 2])
        async with asyncio.timeout(30.0):
            while len(logged) < 3:
                await asyncio.sleep(0.001)

    structlog.configure(processors=[keep], wrapper_class=wrapper)
    before = METRICS.drops["logs", "export_error"]
    try:
        run(main())
        log_event("warning", "loop.blocked")  # as the watchdog's thread does, where no loop runs
    finally:
        structlog.reset_defaults()
    names = [event["event"] for event in logged]
    assert names[:3] == ["batch.started", "item.failed", "batch.completed"]
    lost = 0 if wrapper is structlog.stdlib.AsyncBoundLogger else 1
    assert (len(names), METRICS.drops["logs", "export_error"]) == (4 - lost, before + lost)


@pytest.mark.parametrize("way", ["structlog", "logging"])
def test_raising_sink_loses_only_its_events_and_they_are_counted(
    run: Run, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise BrokenPipeError("no reader")

    class Broken(logging.Handler):
        emit = broken

    before = METRICS.drops["logs", "export_error"]
    disabled = instrument_errors.get("LogInstrument")
    handler = Broken()
    if way == "structlog":
        structlog.configure(processors=[broken])
    else:
        logging.getLogger("flowrt").addHandler(handler)
    try:
        log_event("warning", "loop.blocked", node="n")
        assert METRICS.drops["logs", "export_error"] == before + 1
        run(BatchProcessor(odd_fails).batch([0, 1]))
    finally:
        structlog.reset_defaults()
        logging.getLogger("flowrt").removeHandler(handler)
    assert METRICS.drops["logs", "export_error"] > before + 1
    assert instrument_errors.get("LogInstrument") == disabled


def test_value_without_repr_loses_only_its_event(caplog: pytest.LogCaptureFixture) -> None:
    class Unshown:
        def __repr__(self) -> str:
            raise RuntimeError

    before = METRICS.drops["logs", "export_error"]
    with caplog.at_level(logging.INFO, "flowrt"):
        log_event("info", "mine", value=Unshown())
        log_event("info", "mine", value=1)
    assert METRICS.drops["logs", "export_error"] == before + 1
    assert [record.getMessage() for record in caplog.records] == ["mine value=1"]
