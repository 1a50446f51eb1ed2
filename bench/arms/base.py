"""Arm of the bench, and the load that it runs."""

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
    """Load of an arm.

    Attributes:
        work: The workload.
        job: Work of an item, for arms that run it in this process.
        inputs: The items.
        handle: Result of the arm's `prepare`.
        observed: True for telemetry by hand, for arms that run items elsewhere; the job has it already.
    """

    work: Workload
    job: Job
    inputs: list[Item]
    handle: Any = None
    observed: bool = False

    @property
    def concurrency(self) -> int:
        """Concurrency of the workload."""
        return self.work.concurrency


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of running the items.

    Args:
        name: Name for the command line.
        title: Title in tables.
        run: Runs the items of a workload; returns their outputs in the order of the inputs.
        needs: Modules that must be installed.
        delivers: True if it sends a span for each item to the collector in `BENCH_COLLECTOR`.
        by_hand: True if the job is wrapped in telemetry by hand.
        peer: Environment that it runs in; None for the bench's own.
        distributed: True for an arm with processes of its own, which gets two cores.
        prepare: Untimed set-up; yields the load's `handle`.
        most_items: Most items of a run, for slow arms; None for all.
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
        """Why it cannot run here; None if it can."""
        return None if self.peer is not None else why_missing(self.needs)


def why_missing(modules: Iterable[str]) -> str | None:
    """The first module that is not installed, in words; None if all are."""
    return next((f"{module} is not installed" for module in modules if not _installed(module)), None)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False
