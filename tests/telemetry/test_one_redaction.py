"""One redaction for all that telemetry shows: spans, reports, recordings; results keep the text."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor

from flowrt import BatchProcessor, RetryPolicy, Telemetry
from flowrt.cli.commands.run_status import FailureLines
from flowrt.reporting.from_output import detail_of_lines
from flowrt.telemetry.otlp.console import as_json
from flowrt.telemetry.redaction import Redact, redact
from flowrt.telemetry.tracing.setup import make_provider
from flowrt.whatif.recorded_attempts import RecordedAttempts

TEXT = "401 for customer ACME, password=canary"


class Kept:
    """Target that keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.put = self.spans.append

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


async def failing(x: int) -> None:
    tracer = trace.get_tracer("a client")
    error = ConnectionError(TEXT)
    try:
        with tracer.start_as_current_span("request"), tracer.start_as_current_span("connection"):
            raise error
    finally:
        span = trace.get_current_span()
        span.record_exception(error)
        span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))


def without_acme(text: str) -> str:
    return redact(text).replace("ACME", "[a customer]")


REDACTIONS: dict[str, tuple[Redact | None, set[str]]] = {
    "default": (redact, {"ACME"}),
    "own": (without_acme, set()),
    "none": (None, {"ACME", "canary"}),
}


def shown(text: str) -> set[str]:
    return {word for word in ("ACME", "canary") if word in text}


@pytest.mark.parametrize("further", [False, True], ids=["our spans", "the SDK's spans"])
@pytest.mark.parametrize(("function", "expected"), REDACTIONS.values(), ids=REDACTIONS)
def test_all_spans_under_an_item_are_redacted(
    function: Redact | None, expected: set[str], further: bool, run_virtual: Callable[[Any], Any]
) -> None:
    provider, kept = make_provider(Resource({})), Kept()
    provider.target = kept
    if further:
        provider.add_span_processor(SpanProcessor())
    with patch.object(trace, "_TRACER_PROVIDER", provider):
        processor = BatchProcessor(failing, telemetry=Telemetry(redact=function, logs=False), retry=RetryPolicy(2))
        results = run_virtual(processor.batch([1]))
    assert results[0].error == TEXT
    names = [span.name for span in kept.spans]
    assert sorted(set(names)) == ["attempt failing", "batch failing", "connection", "process failing", "request"]
    for span in kept.spans:
        if not span.name.startswith("batch"):
            text = as_json([span]).decode()
            assert "401 for customer" in text
            assert shown(text) == expected, span.name


def test_span_without_a_secret_is_handed_over_as_it_is() -> None:
    provider, kept = make_provider(Resource({})), Kept()
    provider.target = kept
    tracer = provider.get_tracer("a client")
    with pytest.raises(ValueError), tracer.start_as_current_span("plain", attributes={"a": 1}) as span:  # noqa: PT011, PT012
        for number in range(200):
            span.add_event(f"event {number}")
        raise ValueError("no such city")
    with pytest.raises(ValueError), tracer.start_as_current_span("outside of a batch") as span:  # noqa: PT011, PT012
        for number in range(200):
            span.add_event(f"event {number}")
        raise ValueError(TEXT)
    plain, outside = kept.spans
    assert plain.events[-1].attributes["exception.message"] == "no such city"
    assert shown(as_json([outside]).decode()) == {"ACME"}
    assert (len(outside.events), outside.dropped_events) == (len(plain.events), plain.dropped_events) == (128, 73)


@pytest.mark.parametrize(("function", "expected"), REDACTIONS.values(), ids=REDACTIONS)
def test_reports_and_recordings_are_redacted(function: Redact | None, expected: set[str], tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    processor = BatchProcessor(failing, telemetry=Telemetry(redact=function, logs=False), record=path)
    results = asyncio.run(processor.batch([1]))
    assert results[0].error == TEXT
    recorded = json.dumps(RecordedAttempts.load(path).meta["causes"])
    assert shown(recorded) == expected
    for text in (json.dumps(results.report.as_dict()), results.report.text(), results.report.html()):
        assert "401 for customer" in text
        assert shown(text) == expected


def test_report_of_pickled_results_is_redacted_by_default() -> None:
    processor = BatchProcessor(failing, telemetry=Telemetry(redact=lambda _: "", logs=False))
    results = pickle.loads(pickle.dumps(asyncio.run(processor.batch([1]))))
    assert shown(results.report.text()) == {"ACME"}


def test_report_of_an_output_file_is_redacted(tmp_path: Path) -> None:
    line = {"index": 0, "success": False, "status": "failed", "output": None, "error": TEXT, "error_type": "E"}
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps({**line, "attempts": 1, "execution_time": 0.1}) + "\n")
    assert shown(json.dumps(detail_of_lines(path).as_dict())) == {"ACME"}


def test_failures_on_stderr_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    results = asyncio.run(BatchProcessor(failing, telemetry=False).batch([1]))
    lines = FailureLines(active=True)
    lines.add(results[0])
    assert shown(capsys.readouterr().err) == {"ACME"}
