"""Decisions of the SDK's samplers, known without a call, which would take as long as a small batch's items."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.trace.sampling import (
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanContext

__all__ = ["decides_alike", "known_decision", "ratio_bound", "samples_alike"]

_PARENT_BASED: Final = (ParentBased, ParentBasedTraceIdRatio)
_ROOT: Final = re.compile(r"ParentBased\{root:Always(On|Off)Sampler,")
_LOCAL: Final = re.compile(r",localParentSampled:Always(On|Off)Sampler,localParentNotSampled:Always(On|Off)Sampler\}$")


class _Decisions(NamedTuple):
    """True for a sampled span, False for a discarded one, None if the sampler must be called."""

    root: bool | None
    under_sampled: bool | None
    under_unsampled: bool | None


_UNKNOWN: Final = _Decisions(None, None, None)


def _decisions_of(sampler: Sampler) -> _Decisions:
    """Decisions on spans without a parent, and with one of this process. Only the SDK's own classes are known."""
    try:
        return _look_up(sampler)
    except TypeError:  # a class of the application's that has no hash
        return _UNKNOWN


@lru_cache(maxsize=16)
def _look_up(sampler: Sampler) -> _Decisions:
    if type(sampler) is StaticSampler:
        always = sampler.get_description() == "AlwaysOnSampler"
        return _Decisions(always, always, always)
    if type(sampler) not in _PARENT_BASED:
        return _UNKNOWN
    description = str(sampler.get_description())
    root, local = _ROOT.search(description), _LOCAL.search(description)
    return _Decisions(
        None if root is None else root[1] == "On",
        None if local is None else local[1] == "On",
        None if local is None else local[2] == "On",
    )


def known_decision(sampler: Sampler, parent: SpanContext | None) -> bool | None:
    """Return whether a span is sampled, with its own attributes and its parent's trace state; None if it is not known.

    Args:
        sampler: The provider's sampler.
        parent: The parent's context, or None for a root span.
    """
    decisions = _decisions_of(sampler)
    if parent is None:
        return decisions.root
    if parent.is_remote:
        return None
    return decisions.under_sampled if parent.trace_flags.sampled else decisions.under_unsampled


def samples_alike(sampler: Sampler) -> bool:
    """True if the sampler is known to take every span under a sampled one of this process."""
    return _decisions_of(sampler).under_sampled is True


def decides_alike(sampler: Sampler, parent: SpanContext | None) -> bool:
    """True if the sampler decides alike for all spans under a parent of this process, or for all root spans.

    Args:
        sampler: The provider's sampler. A ratio sampler reads the trace id, and each root span has a new trace id.
        parent: The parent's context, or None for root spans.
    """
    return known_decision(sampler, parent) is not None or (type(sampler) is TraceIdRatioBased and parent is not None)


def ratio_bound(sampler: Any) -> int | None:
    """Bound of the SDK's ratio sampler, which samples root spans if the trace id's lower 64 bits are below it."""
    root = getattr(sampler, "_root", None) if type(sampler) in _PARENT_BASED else sampler
    return root.bound if type(root) is TraceIdRatioBased else None
