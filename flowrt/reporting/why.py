"""The two answers that a report begins with: what failed, and why it took so long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flowrt.reporting.detail import Detail
from flowrt.reporting.palette import BOUND
from flowrt.reporting.units import duration, percent

__all__ = ["what_failed", "why_slow"]

_LEAST: Final = 0.05  # shares of the time below this are left to the chart


def what_failed(detail: Detail) -> tuple[str, list[str]]:
    """One sentence, and a line for each of the main causes.

    Args:
        detail: The batch's figures.
    """
    total, failed = detail.total, detail.failed
    if not total:
        return "No item ended.", []
    if not failed:
        retries = detail.retries.get("recovered", 0)
        recovered = f" {retries:,} of them only after being tried again." if retries else ""
        return f"Nothing: all {total:,} items ended well.{recovered}", []
    parts = [
        f"{detail.counts[name]:,} {name.replace('_', ' ')}"
        for name in ("failed", "timed_out", "cancelled")
        if detail.counts.get(name)
    ]
    headline = f"{failed:,} of {total:,} items ({percent(failed / total)}): {', '.join(parts)}."
    ended = [cause for cause in detail.causes if cause["items"]]
    lines = [f"{cause['items']:,} × {cause['type']}: {cause['text']}" for cause in ended[:3]]
    rest = sum(cause["items"] for cause in ended[3:])
    if rest:
        lines.append(f"{rest:,} by {len(ended) - 3} further causes")
    return headline, lines


def why_slow(detail: Detail) -> tuple[str, list[str]]:
    """One sentence, and a line of advice for each main cause that has one.

    Args:
        detail: The batch's figures.
    """
    if not detail.wall_s:
        return "When each item ran is not in this file: record it with --record FILE.", []
    took = f"It took {duration(detail.wall_s)}"
    spent = sorted(((s / detail.wall_s, cause) for cause, s in detail.bound.items() if cause in BOUND), reverse=True)
    main = [(share, cause) for share, cause in spent if share >= _LEAST]
    if not main:
        return f"{took}, {detail.throughput:,.1f} items a second.", []
    clauses = [f"for {percent(share)} {BOUND[cause].clause}" for share, cause in main[1:3]]
    clauses.insert(0, f"for {percent(main[0][0])} of that time {BOUND[main[0][1]].clause}")
    lines = [advice for share, cause in main for advice in _ADVICE.get(cause, _none)(detail, share)]
    return f"{took}: {'; '.join(clauses)}.", lines


def _none(detail: Detail, share: float) -> list[str]:  # noqa: ARG001
    return []


def _slots(detail: Detail, share: float) -> list[str]:
    if share < 0.3:
        return []
    limit = detail.limits[-1][1] if detail.limits else detail.settings.get("max_concurrency")
    ask = f"Raise max_concurrency above {limit:,}" if isinstance(limit, int) else "Raise max_concurrency"
    return [f"{ask}, if the service behind can take it: flowrt whatif says what that would give."]


def _rate(detail: Detail, share: float) -> list[str]:  # noqa: ARG001
    return ["A higher rate limit is what would help; more slots would only wait with the others."]


def _backoff(detail: Detail, share: float) -> list[str]:  # noqa: ARG001
    return ["The waits between retries set the end: shorter ones, or fewer attempts, would end it sooner."]


def _blocked(detail: Detail, share: float) -> list[str]:  # noqa: ARG001
    return ["Code that blocks the loop belongs into a thread: a plain function as the node, or executor='threads'."]


def _input(detail: Detail, share: float) -> list[str]:  # noqa: ARG001
    return ["The input came slower than it was worked off: read it faster, or ahead."]


def _consumer(detail: Detail, share: float) -> list[str]:  # noqa: ARG001
    return ["Whoever takes the results holds the batch back: do the slow part of it elsewhere, or in the node."]


def _tail(detail: Detail, share: float) -> list[str]:
    if not detail.service or share < 0.1:
        return []
    p50, high = detail.service["p50"], detail.service["max"]
    slow = f"The slowest attempt took {duration(high)}, the median {duration(p50)}"
    return [f"{slow}: an item_timeout with a retry, or a hedge, cuts the tail."]


_ADVICE: Final[dict[str, Callable[[Detail, float], list[str]]]] = {
    "slots": _slots,
    "rate_limit": _rate,
    "backoff": _backoff,
    "loop_blocked": _blocked,
    "input": _input,
    "consumer": _consumer,
    "tail": _tail,
}
