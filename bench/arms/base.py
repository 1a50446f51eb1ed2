"""What an arm is, and what it is given."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.jobs import Item, Job
from bench.workloads import Workload

__all__ = ["Arm", "Load", "why_missing"]


class Load(NamedTuple):
    """What an arm runs.

    Attributes:
        work: The workload.
        job: What an item does, for arms that run it in this process.
        inputs: The items.
        handle: What the arm's `prepare` gave.
        told: Whether items are to have telemetry by hand, for arms that run them elsewhere; the job has it already.
    """

    work: Workload
    job: Job
    inputs: list[Item]
    handle: Any = None
    told: bool = False

    @property
    def concurrency(self) -> int:
        """How many items may run at once."""
        return self.work.concurrency


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of running the items.

    Args:
        name: For the command line.
        title: For tables.
        run: Runs a workload's items and gives their outputs in the order of the inputs.
        needs: The modules that must be installed.
        delivers: Whether it sends a span for each item to the collector that `BENCH_COLLECTOR` names.
        by_hand: Whether the job is wrapped in telemetry written by hand.
        peer: The environment it runs in, or None for the bench's own.
        distributed: Whether it has processes of its own, so that it is given two cores.
        prepare: Sets up what is not timed, and gives the load's `handle`.
        most_items: It is given no more than these; the others are too slow to wait for.
    """

    name: str
    title: str
    run: Callable[[Load], Awaitable[list[int]]]
    needs: tuple[str, ...] = ()
    delivers: bool = False
    by_hand: bool = False
    peer: str | None = None
    distributed: bool = False
    prepare: Callable[[Workload], AbstractAsyncContextManager[Any]] | None = None
    most_items: int | None = None

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, or None where it can."""
        return None if self.peer is not None else why_missing(self.needs)


def why_missing(modules: Iterable[str]) -> str | None:
    """Which of the modules is not installed, in words, or None where all are."""
    return next((f"{module} is not installed" for module in modules if not _installed(module)), None)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False
