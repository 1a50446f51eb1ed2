"""Log lines made in one step: the same as those of the processors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from flowrt.telemetry.logs.events import DIRECT, DirectLog
from flowrt.telemetry.logs.setup import LogSetup

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
