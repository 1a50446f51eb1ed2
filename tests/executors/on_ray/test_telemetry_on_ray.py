"""Telemetry of actors: spans and log lines under the items' spans, and what actors print."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowrt import BatchProcessor, RayExecutor
from flowrt.executors.workers import worker_states
from tests.executors import worker_nodes as nodes
from tests.executors.worker_telemetry import check_spans_and_logs
from tests.telemetry.otlp.harness import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_spans_and_log_lines_of_actors_arrive_once_under_their_items(
    cluster: Any, collector: Collector, tmp_path: Path
) -> None:
    address = cluster.get_runtime_context().gcs_address
    check_spans_and_logs(f"flowrt.RayExecutor(2, address={address!r})", collector, tmp_path)


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
