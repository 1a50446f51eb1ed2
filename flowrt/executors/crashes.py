"""Attribution of a worker's end to the attempts that it had."""

from __future__ import annotations

from collections.abc import Sequence

from flowrt.errors import ExecutorFailedError, WorkerCrashed
from flowrt.executors.mailbox import Entry
from flowrt.executors.remote_link import RemoteLink
from flowrt.executors.transport import Death

__all__ = ["attribute"]


def attribute(link: RemoteLink, death: Death, last_lines: Sequence[str], max_crashes: int) -> list[Entry]:
    """Decide which attempts a worker may have died of, and fail those that have killed too many.

    Plain functions run one after another: only the running attempt is suspected, since the others had not started. Each
    coroutine in flight is suspected. A worker that flowrt itself killed counts against no attempt.

    Args:
        link: The worker; it has no attempts afterwards.
        death: How it ended.
        last_lines: What it printed last.
        max_crashes: Number of workers that an attempt may kill before it fails.

    Returns:
        Attempts to queue again, in their order; none of them counts as an attempt of its item.
    """
    entries = list(link.entries.values())
    link.entries.clear()
    crashed = link.why_killed is None
    running = death.running
    if running is None and entries:  # it is not known: the first one without an outcome
        running = entries[0].number
    innocent: list[Entry] = []
    for entry in entries:
        if entry.future.done():  # it was cancelled, and has ended now
            entry.fail(ExecutorFailedError("its worker was ended"))
            continue
        ran = not entry.session.blocking or entry.number == running
        entry.crashes += crashed and ran
        if entry.crashes >= max_crashes:
            entry.fail(_error(entry, death, last_lines))
            continue
        if ran and entry.item.batch is not None:
            entry.item.batch.reruns += 1
        innocent.append(entry)
    return innocent


def _error(entry: Entry, death: Death, last_lines: Sequence[str]) -> WorkerCrashed:
    times = "once" if entry.crashes == 1 else f"{entry.crashes} times"
    said = "".join(f"\n  {line}" for line in last_lines)
    return WorkerCrashed(
        f"its worker ended while it ran, {times}; the last time with {death.how}"
        + (f", after printing:{said}" if said else ""),
        death.how,
        tuple(last_lines),
    )
