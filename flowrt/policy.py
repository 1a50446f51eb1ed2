"""What a caller may ask for, checked before any work starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Telemetry", "TraceShape", "check_concurrency", "check_duration"]

TraceShape = Literal["auto", "nested", "linked"]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Which of the built-in instruments watch a processor.

    Args:
        metrics: Count and time every item for Prometheus.
        tracing: A span per batch and per item, when the process has a tracer provider.
        logs: Structured events through structlog, or the standard logger `flowrt` where structlog is not set up.
        trace_shape: `nested` makes items children of the batch span, `linked` gives each item a trace of its own
            that links to the batch span; `auto` nests batches of at most 1,000 items and links larger ones.
        latency_slo: Your objective for an item's duration, in seconds: it becomes a bucket of the histograms, so
            that the share of items within it can be read exactly.

    Raises:
        ValueError: `trace_shape` is none of the three, or `latency_slo` is not a positive number.
    """

    metrics: bool = True
    tracing: bool = True
    logs: bool = True
    trace_shape: TraceShape = "auto"
    latency_slo: float | None = None

    def __post_init__(self) -> None:
        if self.trace_shape not in ("auto", "nested", "linked"):
            raise ValueError(f"trace_shape must be 'auto', 'nested' or 'linked', not {self.trace_shape!r}")
        check_duration("latency_slo", self.latency_slo)

    @classmethod
    def of(cls, choice: bool | Telemetry) -> Telemetry:
        """All of it for True, nothing for False, or the given choice."""
        if isinstance(choice, cls):
            return choice
        if choice is True:
            return cls()
        if choice is False:
            return cls(metrics=False, tracing=False, logs=False)
        raise TypeError(f"telemetry must be True, False or a flowrt.Telemetry(...), not {choice!r}")


def check_concurrency(value: Any) -> int:
    """A concurrency limit: an int of at least 1.

    Raises:
        ValueError: It is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"max_concurrency must be an integer of at least 1, not {value!r}")
    return value


def check_duration(name: str, value: Any) -> float | None:
    """A duration in seconds, or None for no limit.

    Raises:
        ValueError: It is not a positive, finite number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, or None for no limit, not {value!r}")
    return float(value)
