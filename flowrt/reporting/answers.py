"""Headlines of a report: what failed, and what limited the batch."""

from __future__ import annotations

from flowrt.reporting.figures import Detail
from flowrt.reporting.units import duration, percent

__all__ = ["what_failed", "why_slow"]


def what_failed(detail: Detail) -> tuple[str, list[str]]:
    """Return a sentence about failures, and a line for each main cause.

    Args:
        detail: Figures of the batch.
    """
    total, failed = detail.total, detail.failed
    if not total:
        return "No item ended.", []
    if not failed and detail.status in ("failed", "cancelled"):
        return "No item that ran, but the batch ended before its input did.", []
    if not failed:
        retries = detail.retries.get("recovered", 0)
        recovered = f" {retries:,} of them after a retry." if retries else ""
        return f"Nothing: {f'all {total:,} items' if total > 1 else 'the item'} ended ok.{recovered}", []
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
        lines.append(f"{rest:,} by {len(ended) - 3} other causes")
    return headline, lines


def why_slow(detail: Detail) -> tuple[str, list[str]]:
    """Return a sentence with the main cause of the wall time, and a line for each further one.

    Args:
        detail: Figures of the batch.
    """
    if not detail.wall_s:
        return "Unknown, as the file has no timestamps: record it with --record FILE.", []
    took = f"It took {duration(detail.wall_s)}"
    main, *others = detail.explanation.split("; ")
    headline = f"{took}. {_sentence(main)}" if main else f"{took}, {detail.throughput:,.1f} items a second."
    lines = [_sentence(clause) for clause in others]
    if "raise max_concurrency" in detail.explanation:
        lines.append("flowrt whatif estimates from a recording how much more slots would help.")
    if detail.overstated:
        claimed, measured = detail.speedup["claimed"], detail.speedup["measured"]
        found = f"at most {detail.speedup['high']:,.1f}x" if measured is None else f"{measured:,.1f}x"
        lines.append(f"The speedup is {found}, not the claimed {claimed:,.1f}x: {detail.overstated}.")
    return headline, lines


def _sentence(clause: str) -> str:
    return f"{clause[:1].upper()}{clause[1:]}."
