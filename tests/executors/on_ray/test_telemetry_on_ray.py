"""Telemetry of actors: spans and log lines under the items' spans, and what actors print."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from flowrt import BatchProcessor, RayExecutor
from flowrt.executors.workers import worker_states
from tests.executors import worker_nodes as nodes
from tests.telemetry.otlp.harness import Collector, eventually

ROOT = Path(__file__).parents[3]

SCRIPT = """
import asyncio, json, logging, sys
import flowrt

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
    async with flowrt.RayExecutor(2, address=sys.argv[1]) as executor:
        results = []
        for node in (look_up, look_up_later):
            results += await flowrt.BatchProcessor(node, 10, executor=executor).batch(range(100))
    print(json.dumps([(result.trace_id, result.span_id, result.output) for result in results]))

flowrt.run(main(), otlp_endpoint=sys.argv[2], metrics_port=None, log_format="json")
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def spans_of(collector: Collector, name: str) -> list[Any]:
    """The spans of a name that have arrived."""
    bodies = [
        gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        for request in list(collector.requests)
    ]
    parts = [part for body in bodies for part in ExportTraceServiceRequest.FromString(body).resource_spans]
    return [span for part in parts for scope in part.scope_spans for span in scope.spans if span.name == name]


def test_spans_and_log_lines_of_actors_arrive_once_under_their_items(
    cluster: Any, collector: Collector, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    address = cluster.get_runtime_context().gcs_address
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), address, collector.endpoint]
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
    assert {event["worker"] for event in logged} == {"w0", "w1"}


@pytest.fixture(autouse=True)
def _allowances_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrt.telemetry.worker_events._allowances", {})


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "worker.stderr" in record.getMessage()]


def test_lines_of_standard_error_become_rate_limited_events(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with RayExecutor(1) as executor:
            await BatchProcessor(nodes.say, 4, telemetry=False, executor=executor).batch([200, 0])

    with caplog.at_level(logging.INFO, logger="flowrt"):
        asyncio.run(main())
    lines = printed(caplog)
    assert "line 0" in lines[0]
    assert "worker=w0" in lines[0]
    assert 20 <= len(lines) < 100  # of 200


async def say_and_stay(_: Any) -> None:
    nodes.say(1)
    await asyncio.sleep(600)


def test_lines_of_an_item_that_runs_on_are_seen_meanwhile(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with RayExecutor(1) as executor:
            processor = BatchProcessor(say_and_stay, 4, telemetry=False, executor=executor)
            batch = asyncio.ensure_future(processor.batch([1]))
            async with asyncio.timeout(60):
                while not printed(caplog):
                    await asyncio.sleep(0.05)
            batch.cancel()
            await asyncio.wait([batch])

    with caplog.at_level(logging.INFO, logger="flowrt"):
        asyncio.run(main())
    assert "line 0" in printed(caplog)[0]


def test_crashed_item_and_its_worker_have_the_lines_that_it_printed_last(cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()

    async def main() -> Any:
        async with RayExecutor(1, max_crashes=1) as executor:
            item = {"x": 1, "log": str(log), "dies": "exit status 3"}
            results = await BatchProcessor(nodes.maybe_die, 4, telemetry=False, executor=executor).batch([item])
            return results[0], [state.last_crash.last_lines for state in worker_states() if state.last_crash]

    result, lines = asyncio.run(main())
    assert result.error_type == "WorkerCrashed"
    assert result.exception.last_lines == ("about to leave",)
    assert ("about to leave",) in lines  # beside those of executors that other tests use
