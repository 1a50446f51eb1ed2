"""Captured spans, of either provider, and log events, and a scrape of the default registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flowrt.telemetry.metrics.collector import register
from flowrt.telemetry.tracing.setup import make_provider
from flowrt.telemetry.tracing.span import ItemSpan
from flowrt.testing import CapturedTelemetry

Sample = Callable[..., float]


class Kept:
    """Target of the Runtime's provider that keeps the spans as the SDK's exporters would see them."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def put(self, span: Any) -> None:
        self.spans.append(span.readable() if isinstance(span, ItemSpan) else span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


@pytest.fixture(params=["the SDK's provider", "the runtime's provider"])
def spans(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[ReadableSpan]]]:
    """Installs a tracer provider for one test; call the fixture for the ended spans."""
    if request.param == "the runtime's provider":
        ours, kept = make_provider(Resource.create({})), Kept()
        ours.target = kept
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", ours)
        yield lambda: list(kept.spans)
        return
    telemetry: CapturedTelemetry = request.getfixturevalue("telemetry")  # of `events`, too
    yield lambda: telemetry.spans


@pytest.fixture
def sample() -> Sample:
    """Scrapes and parses the page, and returns one sample's value; a missing sample fails the test."""
    register()  # as the first processor or server of a process does: a test may be the first to run and make neither

    def look(name: str, **labels: str) -> float:
        text = generate_latest(REGISTRY).decode()
        for family in text_string_to_metric_families(text):
            for found in family.samples:
                if found.name == name and found.labels == labels:
                    return float(found.value)
        raise AssertionError(f"{name}{labels} was not scraped")

    return look


@pytest.fixture
def events(telemetry: CapturedTelemetry) -> list[dict[str, Any]]:
    """Log events of the batches in this test."""
    return telemetry.events
