"""The two answers that a report begins with: what failed, and why it took so long."""

from __future__ import annotations

from flowrt.reporting.figures import Detail
from flowrt.reporting.units import duration, percent

__all__ = ["what_failed", "why_slow"]


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
    """One sentence with the main cause, and a line for each further one.

    Args:
        detail: The batch's figures.
    """
    if not detail.wall_s:
        return "When each item ran is not in this file: record it with --record FILE.", []
    took = f"It took {duration(detail.wall_s)}"
    main, *others = detail.explanation.split("; ")
    headline = f"{took}: {main}." if main else f"{took}, {detail.throughput:,.1f} items a second."
    lines = [_sentence(clause) for clause in others]
    if "raise max_concurrency" in detail.explanation:
        lines.append("Whether more slots help, and how much, is what flowrt whatif says of a recording.")
    if detail.overstated:
        claimed, measured = detail.speedup["claimed"], detail.speedup["measured"]
        lines.append(f"The claimed speedup of {claimed:,.1f}x is {measured:,.1f}x in truth: {detail.overstated}.")
    return headline, lines


def _sentence(clause: str) -> str:
    return f"{clause[:1].upper()}{clause[1:]}."
