"""Decisions that are taken without the sampler: the same as the sampler's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from flowrt.telemetry.tracing.known_decisions import decides_alike, known_decision, ratio_bound, samples_alike


class Own(StaticSampler):
    """A sampler of the application's, whose base class says nothing about it."""


@dataclass
class Unhashable(Sampler):
    """A sampler of the application's that compares by value, as a dataclass does, and so has no hash."""

    share: float = 1.0

    def should_sample(self, *args: Any, **more: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE if self.share else Decision.DROP)

    def get_description(self) -> str:
        return "Unhashable"


SAMPLERS: dict[str, Sampler] = {
    "on": ALWAYS_ON,
    "off": ALWAYS_OFF,
    "parent, on": ParentBased(ALWAYS_ON),
    "parent, off": ParentBased(ALWAYS_OFF),
    "parent, inverted": ParentBased(ALWAYS_ON, local_parent_sampled=ALWAYS_OFF, local_parent_not_sampled=ALWAYS_ON),
    "parent, by ratio": ParentBased(ALWAYS_ON, local_parent_sampled=TraceIdRatioBased(0.5)),
    "root by ratio": ParentBasedTraceIdRatio(0.5),
    "ratio": TraceIdRatioBased(0.5),
    "own": Own(ALWAYS_ON.should_sample(None, 1, "s").decision),
    "unhashable": Unhashable(),
}
STATE = TraceState([("vendor", "1")])
PARENTS = {
    "root": None,
    "sampled": SpanContext(1, 2, False, TraceFlags(TraceFlags.SAMPLED), STATE),
    "unsampled": SpanContext(1, 2, False, TraceFlags(0), STATE),
    "remote": SpanContext(1, 2, True, TraceFlags(TraceFlags.SAMPLED), STATE),
}


def ask(sampler: Sampler, parent: SpanContext | None, trace_id: int, attributes: dict[str, Any]) -> SamplingResult:
    context = Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())
    return sampler.should_sample(context, trace_id, "span", attributes=attributes)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("under", PARENTS)
def test_known_decision_is_the_samplers_own(name: str, under: str) -> None:
    sampler, parent = SAMPLERS[name], PARENTS[under]
    known = known_decision(sampler, parent)
    for trace_id in (1, 2**63 - 1, 2**64 - 1):
        result = ask(sampler, parent, trace_id, {"a": 1})
        if under == "sampled":
            assert samples_alike(sampler) is (known is True)
        if known is not None:
            decision: Any = result.decision
            assert decision.is_sampled() is known
            assert dict(result.attributes or {}) == ({"a": 1} if known else {})
            assert result.trace_state == (None if parent is None else STATE)


@pytest.mark.parametrize(
    ("name", "under"),
    [("own", "root"), ("own", "sampled"), ("ratio", "root"), ("root by ratio", "root"), ("parent, by ratio", "sampled")]
    + [(name, "remote") for name in SAMPLERS],
)
def test_sampler_that_may_look_closer_is_asked(name: str, under: str) -> None:
    assert known_decision(SAMPLERS[name], PARENTS[under]) is None


@pytest.mark.parametrize("name", ["on", "off", "parent, on", "parent, off", "parent, inverted"])
def test_usual_samplers_need_not_be_asked(name: str) -> None:
    assert all(known_decision(SAMPLERS[name], PARENTS[under]) is not None for under in ("root", "sampled", "unsampled"))


def test_ratio_decides_alike_under_one_parent_alone() -> None:
    sampler = TraceIdRatioBased(0.5)
    assert decides_alike(sampler, PARENTS["sampled"])
    assert not decides_alike(sampler, None)
    assert ratio_bound(sampler) == ratio_bound(ParentBasedTraceIdRatio(0.5)) == sampler.bound
    assert ratio_bound(ALWAYS_ON) is None
