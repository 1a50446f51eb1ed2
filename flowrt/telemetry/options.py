"""Telemetry options that callers pass, validated at construction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from flowrt._util.validation import check_count, check_duration, check_number
from flowrt.telemetry.redaction import Redact, redact

__all__ = ["Serving", "TailSampling", "Telemetry", "TraceShape"]

TraceShape = Literal["auto", "nested", "linked"]


@dataclass(frozen=True, slots=True)
class TailSampling:
    """Tail sampling policy: decides when an item ends whether its trace is kept.

    Traces of items that failed, timed out or were retried are always kept. The policy applies to the spans that a
    `Runtime` exports; a tracer provider of your own samples by its own rules.

    Args:
        share: Share of the remaining traces to keep, 0 to 1.
        slow: Keep items that took at least this long from pulled to ended, in seconds; None for no such rule.
        most_spans: Limit of spans that may wait under active items for the decision. Spans over it are dropped and
            counted.

    Raises:
        ValueError: A value is out of range.
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
    """Selects and configures the built-in instruments of a processor.

    Args:
        metrics: Count and time every item for Prometheus.
        tracing: Make a span per batch and per item, if the process has a tracer provider.
        logs: Log events through structlog, or through the standard logger `flowrt` if structlog is not configured.
        item_events: Log `item.completed` for every item, at DEBUG. Without it, an item that ends ok is not logged.
        redact: Function that removes secrets from error texts and stacks before they reach log events, spans, the live
            page, reports and recordings. By default `flowrt.telemetry.redaction.redact`; None shows the texts
            unchanged. Results, output files and the journal keep the text. On a Runtime's spans, the exceptions that
            a node's own spans record are redacted too; attributes and events that a node sets itself are not.
        ledger: Attribute the batch's wall time to what held it back, and stalls of the loop to their culprits.
        trace_shape: `nested` makes items children of the batch span, `linked` gives each item a trace of its own
            that links to the batch span; `auto` nests batches of at most 1,000 items and links larger ones.
        tail_sampling: Policy that decides which traces to keep; None keeps every trace that the sampler chose.
        latency_slo: Objective for an item's duration, in seconds. It becomes a histogram bucket, so that the share of
            items within it can be read exactly.

    Raises:
        ValueError: `trace_shape` is none of the three, or `latency_slo` is not a positive number.
        TypeError: `tail_sampling` is not a TailSampling, or `redact` is not a function.
    """

    metrics: bool = True
    tracing: bool = True
    logs: bool = True
    ledger: bool = True
    trace_shape: TraceShape = "auto"
    tail_sampling: TailSampling | None = None
    latency_slo: float | None = None
    item_events: bool = False
    redact: Redact | None = redact

    def __post_init__(self) -> None:
        if self.redact is not None and not callable(self.redact):
            raise TypeError(f"redact must be a function of a text that returns a text, or None, not {self.redact!r}")
        if self.trace_shape not in ("auto", "nested", "linked"):
            raise ValueError(f"trace_shape must be 'auto', 'nested' or 'linked', not {self.trace_shape!r}")
        if self.tail_sampling is not None and not isinstance(self.tail_sampling, TailSampling):
            raise TypeError(f"tail_sampling must be a flowrt.TailSampling(...) or None, not {self.tail_sampling!r}")
        check_duration("latency_slo", self.latency_slo)

    @classmethod
    def of(cls, choice: bool | Telemetry) -> Telemetry:
        """Return the given options, all instruments for True, or none for False.

        Raises:
            TypeError: `choice` is none of these.
        """
        if isinstance(choice, cls):
            return choice
        if choice is True:
            return cls()
        if choice is False:
            return cls(metrics=False, tracing=False, logs=False, ledger=False)
        raise TypeError(f"telemetry must be True, False or a flowrt.Telemetry(...), not {choice!r}")


class Serving(TypedDict, total=False):
    """Address, token and certificate of the metrics server: the keyword arguments that `flowrt.Runtime` takes."""

    metrics_port: int | None
    metrics_host: str
    metrics_token: str | None
    metrics_cert: str | None
    metrics_key: str | None
    trace_url: str | None
    live_control: bool
