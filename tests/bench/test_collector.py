"""What the collector counts."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.collector import collector, count_spans
from bench.machine import last_core


def test_a_span_that_comes_twice_counts_once_and_those_of_the_batch_and_of_attempts_do_not() -> None:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.add(span_id=b"1" * 8, name="item")
    spans.add(span_id=b"2" * 8, name="item")
    spans.add(span_id=b"3" * 8, name="batch of them")
    spans.add(span_id=b"4" * 8, name="attempt item")
    with collector() as url:
        for _ in range(2):
            httpx.post(f"{url}/v1/traces", content=request.SerializeToString()).raise_for_status()
        assert count_spans(url) == 2
        assert count_spans(url) == 0


def test_it_keeps_off_the_core_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    begin = subprocess.Popen

    def noted(*words: Any, **how: Any) -> Any:
        process = begin(*words, **how)
        started.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", noted)
    core = last_core()
    with collector(not_on=core):
        allowed = os.sched_getaffinity(started[0])
    # where there is one core, it has to share it
    assert core is not None
    assert allowed == (os.sched_getaffinity(0) - {core} or {core})
