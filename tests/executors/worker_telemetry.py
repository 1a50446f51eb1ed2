"""Driver whose node makes spans and log lines in its workers, and checks of their arrival."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.telemetry.otlp.harness import Collector, eventually

__all__ = ["check_spans_and_logs", "spans_of"]

ROOT = Path(__file__).parents[2]

SCRIPT = """
import asyncio, json, logging, sys
import flowrt
from flowrt.executors.workers import worker_states

def look_up(x):
    from opentelemetry import trace

    with trace.get_tracer("user").start_as_current_span("look up") as span:
        span.set_attribute("x", x)
    logging.getLogger("user").warning("looked up %d", x)
    return x

async def look_up_later(x):
    await asyncio.sleep(0.001)
    return look_up(x)

async def main():
    async with {executor} as executor:
        while sum(state.ready for state in worker_states()) < 2:  # or the first that is ready takes every item
            await flowrt.BatchProcessor(asyncio.sleep, 10, executor=executor).batch([0.05])
        results = []
        for node in (look_up, look_up_later):
            results += await flowrt.BatchProcessor(node, 10, executor=executor).batch(range(100))
    print(json.dumps([(result.trace_id, result.span_id, result.output) for result in results]))

flowrt.run(main(), otlp_endpoint=sys.argv[1], metrics_port=None, log_format="json")
"""


def spans_of(collector: Collector, name: str) -> list[Any]:
    """Return the spans of a name that have arrived."""
    bodies = [
        gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        for request in list(collector.requests)
    ]
    parts = [part for body in bodies for part in ExportTraceServiceRequest.FromString(body).resource_spans]
    return [span for part in parts for scope in part.scope_spans for span in scope.spans if span.name == name]


def check_spans_and_logs(executor: str, collector: Collector, tmp_path: Path) -> None:
    """Run plain functions and coroutines; assert that each span and log line arrives once, under its item's span.

    Args:
        executor: Expression of an executor with two workers.
        collector: Collector to which the driver and its workers export.
        tmp_path: Folder for the driver's script.
    """
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{executor}", executor), "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), collector.endpoint]
    driver = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert driver.returncode == 0, driver.stderr
    items = [tuple(each) for each in json.loads(driver.stdout.splitlines()[-1])]
    assert [x for _, _, x in items] == [*range(100), *range(100)]
    assert len({span_id for _, span_id, _ in items}) == 200

    eventually(lambda: len(spans_of(collector, "look up")) >= 200)
    inner = [
        (span.trace_id.hex(), span.parent_span_id.hex(), span.attributes[0].value.int_value)
        for span in spans_of(collector, "look up")
    ]
    assert Counter(inner) == Counter(items)

    events = [json.loads(line) for line in driver.stderr.splitlines() if line.startswith("{")]
    logged = [event for event in events if event["event"].startswith("looked up")]
    ids = [(event["trace_id"], event["span_id"], int(event["event"].split()[-1])) for event in logged]
    assert Counter(ids) == Counter(items)
    workers = Counter(event["worker"] for event in logged)
    assert sorted(workers) == ["w0", "w1"], workers
