"""The ledger in plain words: what held a batch back, and what would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from flowrt.attribution.ledger import CAUSES, Cause, Ledger
from flowrt.attribution.speedup import Speedup
from flowrt.attribution.stalls import Stall

__all__ = ["EndedBatch", "explain", "explain_batch", "why_overstated"]

_WORTH_TELLING: Final = 0.05  # of the wall time; and at least the first cause
_COLLECTOR: Final = "Python's garbage collector"
_WORTH_ADVICE: Final = 0.10
_SHORTEST_NS: Final = 1_000_000  # a batch of less has nothing to explain


class EndedBatch(Protocol):
    """What an explanation reads of a batch that has ended."""

    @property
    def ledger(self) -> Ledger | None:
        """Its ledger, or None where none was kept."""

    @property
    def limit(self) -> int:
        """The concurrency limit."""

    @property
    def pulled(self) -> int:
        """Number of inputs pulled."""

    @property
    def started_ns(self) -> int:
        """When it started, by the batch's clock."""

    @property
    def finished_ns(self) -> int:
        """When it ended, by the batch's clock."""


def explain_batch(batch: EndedBatch) -> str:
    """One sentence about a batch that has ended; empty where no ledger was kept.

    Args:
        batch: Its record.
    """
    ledger = batch.ledger
    if ledger is None:
        return ""
    return explain(
        ledger.read(batch.finished_ns),
        limit=batch.limit,
        items=batch.pulled,
        left=ledger.left,
        computing_ns=ledger.computing_ns,
        stalls=ledger.delays.stalls,
    )


def explain(
    bound_ns: Mapping[Cause, int],
    *,
    limit: int,
    items: int = 0,
    left: int = 0,
    computing_ns: int = 0,
    stalls: Sequence[Stall] = (),
) -> str:
    """One sentence: the causes by their share of the wall time, each with what would help where the ledger says so.

    Args:
        bound_ns: The ledger.
        limit: How many slots there were.
        items: How many items there were.
        left: How many of them were still on their way when the input was over.
        computing_ns: Of `service`, for how long the loop's thread was computing.
        stalls: The stalls of the loop that are known.
    """
    wall_ns = sum(bound_ns.values())
    if wall_ns < _SHORTEST_NS:
        return ""
    parts: list[str] = []
    for cause in sorted(CAUSES, key=lambda each: -bound_ns.get(each, 0)):
        share = bound_ns.get(cause, 0) / wall_ns
        if share < _WORTH_TELLING and parts:
            break
        what, advice = _words(cause, limit, items, left, computing_ns / max(1, bound_ns.get(cause, 0)), stalls)
        text = what.replace("{share}", _percent(share), 1)  # and not format: a node's name may hold braces
        sure = share >= (_WORTH_ADVICE if cause != "loop_blocked" or _main_culprit(stalls) else 2 * _WORTH_ADVICE)
        parts.append(f"{text}: {advice}" if advice and sure else text)
    return "; ".join(parts)


def _words(
    cause: Cause, limit: int, items: int, left: int, computing: float, stalls: Sequence[Stall]
) -> tuple[str, str]:
    """What is said of a cause, and what would help."""
    slots = "the one slot was" if limit == 1 else f"all {limit:,} slots were"
    if cause == "slots":
        return f"{{share}} of the time {slots} busy", "raise max_concurrency"
    if cause == "input":
        return "{share} waited for input", "more slots would not help, a faster source would"
    if cause == "rate_limit":
        return "{share} waited for the rate limit or an open circuit", ""
    if cause == "backoff":
        return "{share} waited to try failed items again", ""
    if cause == "consumer":
        return "{share} waited for results to be taken", "take them faster, more slots would not help"
    if cause == "loop_blocked":
        who = _main_culprit(stalls)
        by = "" if who is None else f" by {who}"
        if who == _COLLECTOR:
            return (
                f"{{share}} the event loop was blocked{by}",
                "batch_as_completed keeps no results for it to go through",
            )
        return f"{{share}} the event loop was blocked{by}", "make what blocks a plain function, which runs in a thread"
    if cause == "tail":
        last = f"the last {_percent(left / items)} of items" if items and left else "the last items"
        return f"{last} took {{share}} of the time", "a shorter item_timeout or a hedge would bound that"
    if computing > 0.5:
        return "{share} the loop's thread was computing", "more slots would not help"
    return "{share} every item left was running", "only faster items would help"


def why_overstated(batch: EndedBatch, speedup: Speedup) -> str:
    """Why a claimed speedup is far above the measured one, as far as the ledger knows.

    Args:
        batch: It has ended.
        speedup: Its speedup; it diverges.
    """
    ledger = batch.ledger
    wall_ns = max(1, batch.finished_ns - batch.started_ns)
    if ledger is not None:
        blocked = ledger.read(batch.finished_ns)["loop_blocked"] / wall_ns
        computing = ledger.computing_ns / wall_ns
        who = _main_culprit(ledger.delays.stalls)
        if blocked >= max(0.2, computing):
            by = "something" if who is None else who
            return f"{by} blocked the event loop for {_percent(blocked)} of the time, and the other items waited for it"
        held = ledger.delays.total_ns / wall_ns
        if computing >= 0.2 or held > 0.5 * (speedup.claimed - speedup.measured):
            return "the items computed on one thread, and those that were ready waited for each other"
    if speedup.method == "sample":
        return "the items took longer together than alone: what they call, or the processor, is what they compete for"
    return "the items waited for each other on one event loop"


def _main_culprit(stalls: Sequence[Stall]) -> str | None:
    """What blocked the loop for longest, a node or the garbage collector, where any is known."""
    blocked: Counter[str] = Counter()
    for stall in stalls:
        if stall.garbage_collection:
            blocked[_COLLECTOR] += round(stall.duration_s * 1e9)
        elif stall.node is not None:
            blocked[f"node {stall.node!r}"] += round(stall.duration_s * 1e9)
    return blocked.most_common(1)[0][0] if blocked else None


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else f"{100 * share:.1g} %"
