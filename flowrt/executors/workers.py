"""Snapshot of the workers of all executors, for the live page, `flowrt top` and the metrics.

`worker_states()` may be called from any thread at any time; it reads attributes and takes no lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from flowrt._util.weak_registry import WeakRegistry

__all__ = ["POOLS", "RESTART_REASONS", "LastCrash", "Pool", "WorkerState", "worker_states"]

RESTART_REASONS: Final = ("crash", "timeout", "recycled", "memory")
"""Why a slot got a new worker; `timeout` also stands for attempts that were cancelled otherwise."""


@dataclass(frozen=True, slots=True)
class LastCrash:
    """How a slot's worker last crashed.

    Args:
        how: The signal or exit status, such as "SIGKILL".
        last_lines: What the worker printed last to its standard error.
        at_s: When, in seconds since 1970.
    """

    how: str
    last_lines: tuple[str, ...]
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerState:
    """State of one slot of an executor.

    Args:
        executor: The kind of workers: "processes" or "ray".
        slot: The slot's name: "w0", "w1" and so on.
        pid: The worker's process id; 0 if the slot is empty now.
        host: The worker's host.
        ready: True if it can take items.
        busy_seconds: Time for which the slot's workers ran attempts, in seconds; side by side, attempts add up.
        inflight: Number of items in the worker, those that were sent ahead included.
        resident_bytes: Resident memory of the worker at its last message.
        restarts: Number of times that the slot got a new worker, by reason.
        last_crash: How a worker of the slot last crashed, or None.
    """

    executor: str
    slot: str
    pid: int
    host: str
    ready: bool
    busy_seconds: float
    inflight: int
    resident_bytes: int
    restarts: dict[str, int]
    last_crash: LastCrash | None


class Pool(Protocol):
    """Workers of one executor."""

    def worker_states(self) -> list[WorkerState]:
        """State of each slot."""


POOLS: Final[WeakRegistry[Pool]] = WeakRegistry()
"""The pools that are open."""


def worker_states() -> list[WorkerState]:
    """State of every slot of every executor of this process; empty if no executor has workers."""
    return [state for pool in POOLS for state in pool.worker_states()]
