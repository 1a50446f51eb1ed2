"""Captured telemetry and the conservation of items."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from opentelemetry import trace

import flowrt
from flowrt import BatchProcessor, BatchResult, BatchResults, RetryPolicy
from flowrt.testing import (
    CapturedTelemetry,
    ScriptedNode,
    assert_conserved,
    capture_telemetry,
    hangs,
    raises,
    returns,
    run_virtual,
)

pytest_plugins = ["flowrt.testing.plugin"]
NODE = {"node": "scripted"}


def batch_of_three() -> BatchResults:
    node = ScriptedNode(items={1: [raises(ValueError("no")), raises(ValueError("again"))], 2: [hangs()]})
    return run_virtual(BatchProcessor(node, item_timeout=1, retry=RetryPolicy(2)).batch(["a", "b", "c"]))


def test_capture_has_metrics_spans_and_events(telemetry: CapturedTelemetry) -> None:
    results = batch_of_three()
    assert_conserved(results, 3, telemetry)
    telemetry.assert_counted(1, "flowrt_items_total", status="failed", **NODE)
    telemetry.assert_counted(3, "flowrt_items_total", **NODE)
    telemetry.assert_logged("item.failed", item_index=1)
    telemetry.assert_logged("item.retry", times=2)
    assert telemetry.span_of(results[1]).attributes["error.type"] == "ValueError"  # type: ignore[index]
    assert {span.name for span in telemetry.spans} > {"batch scripted", "process scripted"}
    assert len(telemetry.item_spans) == 3


def test_each_capture_starts_at_zero() -> None:
    for _ in range(2):
        with capture_telemetry() as telemetry:
            run_virtual(flowrt.map(ScriptedNode(), [1]))
        telemetry.assert_counted(1, "flowrt_items_total", status="ok", **NODE)
        assert len(telemetry.item_spans) == 1


def test_capture_has_warnings_that_earlier_batches_on_the_loop_would_suppress() -> None:
    node = ScriptedNode(items={index: [raises(ValueError("no"))] for index in range(30)})

    async def two_tests() -> None:
        for count in (30, 1):
            with capture_telemetry() as telemetry:
                results = await flowrt.map(node, range(count))
            telemetry.assert_logged("item.failed", times=min(count, 20))
            telemetry.assert_agrees_with(results)

    run_virtual(two_tests())


@pytest.mark.parametrize("configured", [False, True])
def test_capture_leaves_the_process_as_it_was(configured: bool) -> None:
    if configured:
        structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    try:
        before = (trace.get_tracer_provider(), structlog.is_configured(), structlog.get_config())
        with capture_telemetry():
            run_virtual(flowrt.map(ScriptedNode(), [1]))
        assert (trace.get_tracer_provider(), structlog.is_configured(), structlog.get_config()) == before
    finally:
        structlog.reset_defaults()


def test_assertions_say_what_was_found(telemetry: CapturedTelemetry) -> None:
    batch_of_three()
    with pytest.raises(AssertionError, match="is 1, not 5"):
        telemetry.assert_counted(5, "flowrt_items_total", status="ok", **NODE)
    with pytest.raises(AssertionError, match=r"logged 0 times, not 1; logged: .*'item.failed': 1"):
        telemetry.assert_logged("item.failed", item_index=7)
    with pytest.raises(AssertionError, match="item 0 has no ended span"):
        telemetry.span_of(BatchResult(0, None, True))


def test_conservation_finds_a_lost_and_a_doubled_item() -> None:
    results = run_virtual(flowrt.map(ScriptedNode(), range(3)))
    assert_conserved(results, 3)
    with pytest.raises(AssertionError, match="4 inputs, but results for"):
        assert_conserved(results, 4)
    with pytest.raises(AssertionError, match="inputs, but results for"):
        assert_conserved([*results, results[1]])
    with pytest.raises(AssertionError, match="not in input order"):
        assert_conserved(BatchResults(reversed(results)))


def test_conservation_finds_a_failure_without_a_reason() -> None:
    with pytest.raises(AssertionError, match="failed without an error"):
        assert_conserved([BatchResult(0, None, False)])


def test_conservation_finds_telemetry_that_disagrees(telemetry: CapturedTelemetry) -> None:
    results = run_virtual(flowrt.map(ScriptedNode(returns(1)), range(3)))
    results[0].status, results[0].error, results[0].error_type = "failed", "no", "ValueError"
    with pytest.raises(AssertionError, match="counters"):
        assert_conserved(results, 3, telemetry)


def test_plugin_brings_its_fixtures_to_any_project(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["flowrt.testing.plugin"]\n')
    (tmp_path / "test_mine.py").write_text(
        "import flowrt\n"
        "from flowrt.testing import ScriptedNode, assert_conserved, hangs\n"
        "def test_mine(telemetry, run_virtual):\n"
        "    results = run_virtual(flowrt.map(ScriptedNode(hangs()), range(3), item_timeout=60))\n"
        "    assert_conserved(results, 3, telemetry)\n"
        "    telemetry.assert_logged('item.timed_out', times=3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
