"""State and events of all executors' workers, for the live page, the logs and the metrics.

`worker_states()` is for the live page, `flowrt top` and the metrics. Any thread may call it at any time; it reads
attributes and takes no lock.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from flowrt._util.weak_registry import WeakRegistry

__all__ = [
    "COUNTS",
    "LISTENERS",
    "POOLS",
    "RESTART_REASONS",
    "SETTINGS",
    "TRANSPORT_BOUNDS_S",
    "LastCrash",
    "Pool",
    "WorkerCounts",
    "WorkerState",
    "report",
    "settings_for_workers",
    "worker_states",
]

RESTART_REASONS: Final = ("crash", "timeout", "cancelled", "recycled", "memory")
"""Reason for which a slot got a new worker.

A plain function can be ended only with its worker: `timeout` is for its time limit, `cancelled` for a stopped batch or
a lost hedge.
"""

TRANSPORT_BOUNDS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_TRANSPORT_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in TRANSPORT_BOUNDS_S)


@dataclass(frozen=True, slots=True)
class LastCrash:
    """Latest crash of a slot's worker.

    Args:
        how: The signal or exit status, such as "SIGKILL".
        last_lines: Last lines of the worker's standard error.
        at_s: Time of the crash, in seconds since 1970.
    """

    how: str
    last_lines: tuple[str, ...]
    at_s: float


@dataclass(frozen=True, slots=True)
class WorkerState:
    """State of one slot of an executor.

    Args:
        executor: The kind of workers: "processes" or "ray".
        slot: The slot's name: "w0", "w1" and so on.
        pid: The worker's process id; 0 if the slot is empty now.
        host: The worker's host.
        ready: True if it can take items.
        in_use: True while a batch uses the executor. Without one, a worker that starts does not become ready: nothing
            reads its messages until the next batch.
        busy_seconds: Time for which the slot's workers ran attempts, in seconds; side by side, attempts add up.
        inflight: Number of items in the worker, including those sent ahead.
        resident_bytes: Resident memory of the worker at its last message.
        restarts: Number of times that the slot got a new worker, by reason.
        last_crash: How a worker of the slot last crashed, or None.
    """

    executor: str
    slot: str
    pid: int
    host: str
    ready: bool
    in_use: bool
    busy_seconds: float
    inflight: int
    resident_bytes: int
    restarts: dict[str, int]
    last_crash: LastCrash | None

    @property
    def busy(self) -> bool:
        """True if it has items now."""
        return self.inflight > 0


class WorkerCounts:
    """Counts of all workers of this process since its start, whether their executors are still open or not.

    Attributes:
        busy_ns: Time for which workers ran attempts, in nanoseconds, by slot.
        restarts: Number of workers that were replaced, by slot and reason.
        transport_counts: Messages of outcomes by the time that their last item was on the way, there and back; one
            count for each bound of `TRANSPORT_BOUNDS_S`, and one above.
        transport_ns: Sum of these times, in nanoseconds.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset all counts, since a forked child has none of these workers."""
        self.busy_ns: dict[str, int] = {}
        self.restarts: dict[str, dict[str, int]] = {}
        self.transport_counts = [0] * (len(TRANSPORT_BOUNDS_S) + 1)
        self.transport_ns = 0

    def declare(self, slot: str) -> None:
        """Create a slot's counts at 0."""
        self.busy_ns.setdefault(slot, 0)
        self.restarts.setdefault(slot, dict.fromkeys(RESTART_REASONS, 0))

    def add_transport(self, time_ns: int) -> None:
        """Count the time that one message's last item was on the way."""
        self.transport_counts[bisect_left(_TRANSPORT_BOUNDS_NS, time_ns)] += 1
        self.transport_ns += time_ns


COUNTS: Final = WorkerCounts()
"""The counts of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=COUNTS.reset)


class Pool(Protocol):
    """Workers of one executor.

    Attributes:
        pid: The process that started them; a forked child has a copy of the pool and none of its workers.
    """

    pid: int

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the batches that use the workers now, or None."""

    def worker_states(self) -> list[WorkerState]:
        """State of each slot."""

    def close(self, timeout_s: float = 1.0) -> None:
        """End the workers; block for at most about `timeout_s` seconds."""


POOLS: Final[WeakRegistry[Pool]] = WeakRegistry()
"""The pools that are open."""

Listener = Callable[[str, str, dict[str, Any]], None]
"""Receives an event: its level, its name and its fields."""

LISTENERS: Final[list[Listener]] = []
"""Listeners for events of workers; the logs add themselves."""


SETTINGS: Final[list[Callable[[], dict[str, Any]]]] = []
"""Functions that return settings with which a worker sets up telemetry as this process did."""


def settings_for_workers() -> dict[str, Any]:
    """Return the telemetry settings for a worker; empty if this process has set up no telemetry."""
    return {name: value for settings in SETTINGS for name, value in settings().items()}


def worker_states() -> list[WorkerState]:
    """State of every slot of every executor of this process; empty if no executor has workers."""
    pid = os.getpid()
    return [state for pool in POOLS if pool.pid == pid for state in pool.worker_states()]


def report(level: str, event: str, **fields: Any) -> None:
    """Pass an event of a worker on to the listeners."""
    for listener in LISTENERS:
        listener(level, event, fields)
