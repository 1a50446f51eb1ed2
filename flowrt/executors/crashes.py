"""Attribution of a worker's crash to the attempts in the worker."""

from __future__ import annotations

from collections.abc import Sequence

from flowrt.errors import ExecutorFailedError, WorkerCrashed
from flowrt.executors.mailbox import Entry
from flowrt.executors.remote_link import RemoteLink
from flowrt.executors.transport import Death

__all__ = ["attribute"]


def attribute(link: RemoteLink, death: Death, last_lines: Sequence[str], max_crashes: int) -> list[Entry]:
    """Find the attempts that may have crashed a worker, and fail an attempt that has crashed too many.

    Plain functions run one after another, so only the running attempt is a suspect. Coroutines run side by side, so
    each one in flight is a suspect. A worker that flowrt itself killed counts against no attempt.

    Args:
        link: The worker; its attempts are removed.
        death: How the worker ended.
        last_lines: Last lines of the worker's standard error.
        max_crashes: Number of workers that an attempt may crash before it fails.

    Returns:
        The attempts to queue again, in their order, under the same attempt numbers.
    """
    entries = list(link.entries.values())
    link.entries.clear()
    crashed = link.why_killed is None
    running = death.running
    if running is None and entries:  # unknown: take the first attempt without an outcome
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
