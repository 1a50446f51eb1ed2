"""OTLP collector of the bench."""

from __future__ import annotations

import gzip
import os
import subprocess
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.collector import collector, count_spans
from bench.machine import last_core


def test_collector_counts_each_item_span_once_and_no_other_span() -> None:
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


def test_collector_stores_compressed_bodies_and_parses_them_when_asked() -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(span_id=b"1" * 8, name="item")
    body = gzip.compress(request.SerializeToString())
    with collector() as url:
        headers = {"Content-Encoding": "gzip"}
        httpx.post(f"{url}/v1/traces", content=body, headers=headers).raise_for_status()
        # a body that is no gzip is taken too: it is not looked at before the count
        httpx.post(f"{url}/v1/traces", content=b"no gzip", headers=headers).raise_for_status()
    with collector() as url:
        httpx.post(f"{url}/v1/traces", content=body, headers=headers).raise_for_status()
        assert count_spans(url) == 1


def test_collector_leaves_the_measured_core_alone(monkeypatch: pytest.MonkeyPatch) -> None:
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
    # with one core, it must share it
    assert core is not None
    assert allowed == (os.sched_getaffinity(0) - {core} or {core})
