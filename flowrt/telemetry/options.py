"""What a caller may ask for, checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from flowrt._util.validation import check_count, check_duration, check_number

__all__ = ["Serving", "TailSampling", "Telemetry", "TraceShape"]

TraceShape = Literal["auto", "nested", "linked"]


@dataclass(frozen=True, slots=True)
class TailSampling:
    """Which traces to keep once their item has ended: those of items that failed, timed out or were retried, and more.

    It holds for what a `Runtime` exports; a tracer provider of your own samples by its own rules.

    Args:
        share: How much of the unremarkable rest is kept, 0 to 1.
        slow: Keep items that took this long, in seconds, from being pulled to their end; None for no such rule.
        most_spans: How many spans under items in flight may wait for the decision; further ones are dropped and
            counted.

    Raises:
        ValueError: A value is out of its range.
    """

    share: float = 0.01
    slow: float | None = None
    most_spans: int = 10_000

    def __post_init__(self) -> None:
        check_number("share", self.share, most=1)
        check_duration("slow", self.slow)
        check_count("most_spans", self.most_spans, least=0)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Which of the built-in instruments watch a processor.

    Args:
        metrics: Count and time every item for Prometheus.
        tracing: A span per batch and per item, when the process has a tracer provider.
        logs: Structured events through structlog, or the standard logger `flowrt` where structlog is not set up.
        ledger: Keep account of what holds the batch back, and of who blocks the loop.
        trace_shape: `nested` makes items children of the batch span, `linked` gives each item a trace of its own
            that links to the batch span; `auto` nests batches of at most 1,000 items and links larger ones.
        tail_sampling: Which traces to keep once their item has ended; None keeps all that the sampler wants.
        latency_slo: Your objective for an item's duration, in seconds: it becomes a bucket of the histograms, so
            that the share of items within it can be read exactly.

    Raises:
        ValueError: `trace_shape` is none of the three, or `latency_slo` is not a positive number.
        TypeError: `tail_sampling` is not a TailSampling.
    """

    metrics: bool = True
    tracing: bool = True
    logs: bool = True
    ledger: bool = True
    trace_shape: TraceShape = "auto"
    tail_sampling: TailSampling | None = None
    latency_slo: float | None = None

    def __post_init__(self) -> None:
        if self.trace_shape not in ("auto", "nested", "linked"):
            raise ValueError(f"trace_shape must be 'auto', 'nested' or 'linked', not {self.trace_shape!r}")
        if self.tail_sampling is not None and not isinstance(self.tail_sampling, TailSampling):
            raise TypeError(f"tail_sampling must be a flowrt.TailSampling(...) or None, not {self.tail_sampling!r}")
        check_duration("latency_slo", self.latency_slo)

    @classmethod
    def of(cls, choice: bool | Telemetry) -> Telemetry:
        """All of it for True, nothing for False, or the given choice."""
        if isinstance(choice, cls):
            return choice
        if choice is True:
            return cls()
        if choice is False:
            return cls(metrics=False, tracing=False, logs=False, ledger=False)
        raise TypeError(f"telemetry must be True, False or a flowrt.Telemetry(...), not {choice!r}")


class Serving(TypedDict, total=False):
    """Where and to whom telemetry is served, as `flowrt.Runtime` takes it."""

    metrics_port: int | None
    metrics_host: str
    metrics_token: str | None
    metrics_cert: str | None
    metrics_key: str | None
