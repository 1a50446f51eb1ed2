"""Log lines made in one step: the same as those of the processors."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from flowrt import BatchProcessor, Telemetry
from flowrt.model import BatchRecord
from flowrt.telemetry.logs import formatting
from flowrt.telemetry.logs.batch_fields import _seconds
from flowrt.telemetry.logs.direct import DIRECT, DirectLog
from flowrt.telemetry.logs.setup import LogSetup

Run = Callable[[Any], Any]

cycle: dict[str, Any] = {}
cycle["itself"] = cycle

EVENTS: dict[str, dict[str, Any]] = {
    "plain": {"batch": "b", "limit": 3, "bound_s": {"slots": 0.5}, "event": "batch.started"},
    "text": {"error": 'a "quoted" \u2028 line\nbreak \ud800', "event": "item.failed"},
    "not a number": {"speedup": float("nan"), "event": "e"},
    "infinite": {"speedup": float("inf"), "event": "e"},
    "cycle": {"cycle": cycle, "event": "e"},
    "odd key": {"by": {(1, 2): 3}, "event": "e"},
    "object": {"name": object, "event": "e"},
    "ids of its own": {"event": "e", "trace_id": "0af7", "span_id": "b7ad"},
    "from a worker": {"event": "e", "timestamp": "yesterday", "level": "loud", "worker": 1},
    "exception": {"event": "e", "exc_info": ValueError("broken")},
}


@pytest.fixture
def direct() -> Iterator[DirectLog]:
    logs = LogSetup("json", "DEBUG")
    yield DIRECT[0]
    logs.close()


def line_of(direct: DirectLog, event: dict[str, Any], *, as_json: bool) -> str:
    lines: list[str] = []
    DirectLog(direct._processors, 0, lines.append, as_json=as_json).log("info", dict(event))
    (line,) = lines
    assert '"timestamp": "2' in line
    return re.sub(r'"timestamp": "[^"]+Z"', '"timestamp": "then"', line)


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("traced", [False, True])
def test_line_is_that_of_the_processors(direct: DirectLog, name: str, traced: bool) -> None:
    span = NonRecordingSpan(SpanContext(5, 6, False) if traced else trace.INVALID_SPAN_CONTEXT)
    with trace.use_span(span):
        line = line_of(direct, EVENTS[name], as_json=True)
        assert line == line_of(direct, EVENTS[name], as_json=False)
    assert json.loads(line)["level"] == "info"
    assert ("trace_id" in line) is (traced or "trace_id" in EVENTS[name])


def test_bound_context_variables_are_on_the_line(direct: DirectLog) -> None:
    with structlog.contextvars.bound_contextvars(request="r7"):
        line = line_of(direct, EVENTS["plain"], as_json=True)
    assert json.loads(line)["request"] == "r7"


def test_runtime_of_json_lines_makes_them_in_one_step(direct: DirectLog) -> None:
    assert direct._as_json


def test_timestamp_is_that_of_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    second = 1_795_000_000
    for micros in (0, 1, 999_999, 1_000_000, 86_400_000_007, 5):
        now_ns = second * 1_000_000_000 + micros * 1_000 + 999
        monkeypatch.setattr(formatting, "time", SimpleNamespace(time_ns=lambda now_ns=now_ns: now_ns))
        expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second, microseconds=micros)
        assert formatting.utc_now() == expected.isoformat().replace("+00:00", "Z")


@given(st.integers(0, 10**10) | st.integers(0, 10**7).map(lambda half: 500 * half) | st.integers(0, 10**18))
def test_seconds_are_rounded_as_floats_are(ns: int) -> None:
    assert _seconds(ns) == repr(round(ns / 1e9, 6))


@pytest.mark.parametrize("telemetry", [Telemetry(), Telemetry(ledger=False), Telemetry(metrics=False, tracing=False)])
@pytest.mark.parametrize("as_json", [False, True], ids=["by the processors", "in one step"])
def test_events_of_a_batch_have_the_same_fields_either_way(
    run: Run, direct: DirectLog, telemetry: Telemetry, as_json: bool
) -> None:
    async def node(number: int) -> int:
        return 1 // number

    lines: list[str] = []
    DIRECT[:] = [DirectLog(direct._processors, 0, lines.append, as_json=as_json)]
    run(BatchProcessor(node, 30, name='a "b" \ud800', telemetry=telemetry).batch([0] * 30 + [1]))
    started, *warnings, completed = map(json.loads, lines)
    head = {"level": "info", "batch": 'a "b" \ud800', "batch_id": started["batch_id"], "node": "node"}
    assert list(started) == ["timestamp", "level", "event", "batch", "batch_id", "node", "expected", "limit"]
    assert started | head | {"event": "batch.started", "expected": 31, "limit": 30} == started
    assert len(warnings) == 20
    totals = {"event": "batch.completed", "status": "failed", "completed": 31, "ok": 1, "failed": 30, "suppressed": 10}
    assert completed | head | totals == completed
    measured = ["speedup_claimed", "speedup_measured", "speedup_method"]
    names = ["status", "duration_s", "completed", "ok", "failed"]
    names += (measured if telemetry.ledger else measured[:1]) if telemetry.metrics else []
    names += ["bound_s", "bound_by"] if telemetry.ledger else []
    assert list(completed)[6:] == [*names, "suppressed"]
    if telemetry.ledger:
        assert sum(completed["bound_s"].values()) == pytest.approx(completed["duration_s"], abs=1e-5)


def test_level_that_is_not_logged_makes_no_text(direct: DirectLog) -> None:
    quiet = DirectLog(direct._processors, logging.WARNING, pytest.fail, as_json=True)
    assert quiet.log_text(
        "info", "batch.started", pytest.fail, BatchRecord(name="b", node_id="n", node_type="t", limit=1)
    )
