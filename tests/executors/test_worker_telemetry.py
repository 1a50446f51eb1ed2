"""Telemetry of worker processes: spans and log lines under the items' spans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.executors.worker_telemetry import check_spans_and_logs
from tests.telemetry.otlp.harness import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_spans_and_log_lines_of_workers_arrive_once_under_their_items(collector: Collector, tmp_path: Path) -> None:
    check_spans_and_logs("flowrt.ProcessesExecutor(2)", collector, tmp_path)
