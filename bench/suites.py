"""Suites of the bench, by name: what each measures, and how often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from bench.arms import ARMS, PEERS
from bench.costs import COSTS, measure_costs
from bench.delivery import measure_delivery
from bench.forecasts import FORECASTS, measure_forecasts
from bench.item_task import ITEM_TASK, measure_item_task
from bench.journal import WAYS, measure_journal
from bench.measure import measure
from bench.memory import MEMORY, MEMORY_PEERS, measure_memory
from bench.nested import NESTED, measure_nested
from bench.on_ray import ON_RAY, measure_ray
from bench.parts import PARTS, measure_parts
from bench.prices import PRICES, measure_prices
from bench.processes import PROCESSES, measure_processes
from bench.report_page import measure_page
from bench.scrape import measure_scrape
from bench.small import SMALL, measure_small
from bench.speedup import measure_speedup
from bench.startup import STARTS, measure_startup
from bench.waiting import WAITING, measure_waiting
from bench.workloads import WORKLOADS, Workload

__all__ = ["SUITES", "Choice", "Suite", "suite"]

Say = Callable[[str], None]
Group = Literal["main", "more", "peers", "ray"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Options of a run.

    Args:
        rounds: Runs of each arm; None for the suite's own number.
        cut: Divisor of the number of items.
        arms: Names of the arms; empty for all.
        workloads: Names of the workloads; empty for all.
    """

    rounds: int | None = None
    cut: int = 1
    arms: Sequence[str] = ()
    workloads: Sequence[str] = ()

    def chosen(self, arms: Sequence[Any]) -> list[Any]:
        """The chosen arms."""
        return [each for each in arms if not self.arms or each.name in self.arms]


@dataclass(frozen=True, slots=True)
class Suite:
    """Suite of measurements with one file of results.

    Args:
        name: Name for the command line, and of the file.
        title: Description.
        arms: Arms in the order of their turns.
        rounds: Runs of each arm.
        run: Measures the suite.
        workloads: Workloads to choose from, if there is a choice.
        group: `main` runs with `all`, the others with its options.
    """

    name: str
    title: str
    arms: Sequence[Any]
    rounds: int
    run: Callable[[Suite, Choice, Say], dict[str, Any]]
    workloads: Sequence[Workload] = ()
    group: Group = "main"

    def measure(self, choice: Choice, say: Say) -> dict[str, Any]:
        """Measure the suite.

        Args:
            choice: Options.
            say: Reports the progress.

        Returns:
            The JSON.

        Raises:
            BenchError: A run failed.
        """
        return {**self.run(self, choice, say), "suite": self.name}

    def rounds_of(self, choice: Choice) -> int:
        """Runs of each arm."""
        return choice.rounds or (min(2, self.rounds) if choice.cut > 1 else self.rounds)


def _workloads(suite: Suite, choice: Choice) -> list[Workload]:
    return [work.cut(choice.cut) for work in suite.workloads if not choice.workloads or work.name in choice.workloads]


def _overhead(suite: Suite, choice: Choice, say: Say) -> dict[str, Any]:
    return measure(choice.chosen(suite.arms), _workloads(suite, choice), suite.rounds_of(choice), say)


def _divided(measure_suite: Callable[..., dict[str, Any]]) -> Callable[[Suite, Choice, Say], dict[str, Any]]:
    """Runs a suite whose function takes arms, rounds, the divisor of its items, and the reporter of its progress."""

    def run(suite: Suite, choice: Choice, say: Say) -> dict[str, Any]:
        return measure_suite(choice.chosen(suite.arms), suite.rounds_of(choice), choice.cut, say)

    return run


def _peers(suite: Suite, choice: Choice, say: Say) -> dict[str, Any]:
    works = _workloads(suite, choice)
    return measure(choice.chosen(suite.arms), works, suite.rounds_of(choice), say, forgive=True)


def _page(suite: Suite, choice: Choice, say: Say) -> dict[str, Any]:
    return measure_page(suite.rounds_of(choice), choice.cut, say)


def _speedup(suite: Suite, choice: Choice, say: Say) -> dict[str, Any]:
    return measure_speedup(choice.chosen(suite.arms), suite.rounds_of(choice), say)


def _startup(suite: Suite, choice: Choice, say: Say) -> dict[str, Any]:
    return measure_startup(choice.chosen(suite.arms), suite.rounds_of(choice), say)


def _scrape(suite: Suite, choice: Choice, say: Say) -> dict[str, Any]:
    return measure_scrape(suite.rounds_of(choice), choice.cut, say)


_BESIDE: Final = tuple(each for each in ARMS if each.name in ("floor", "nadoo", "gather", "flowrt-bare"))
_DELIVERING: Final = tuple(each for each in ARMS if each.delivers)

_CURVES: Final = ("floor", "nadoo", "gather", "flowrt-bare", "flowrt-delivered")

SUITES: Final = (
    Suite(
        "overhead",
        "cost of an item, beside the floor, the reference package and telemetry by hand",
        ARMS,
        5,
        _overhead,
        tuple(work for work in WORKLOADS if work.core),
    ),
    Suite(
        "workloads",
        "cost of an item with spread and heavy-tailed service times, retries, HTTP and computing",
        ARMS,
        5,
        _overhead,
        tuple(work for work in WORKLOADS if not work.core),
        group="more",
    ),
    Suite(
        "peers",
        "cost of an item for every peer, each in its own environment, with and without telemetry",
        (*_BESIDE, *_DELIVERING, *PEERS),
        5,
        _peers,
        WORKLOADS,
        group="peers",
    ),
    Suite(
        "speedup",
        "speedup over sequential execution, from one item at a time to a thousand",
        tuple(each for each in ARMS if each.name in _CURVES),
        5,
        _speedup,
    ),
    Suite(
        "item_task",
        "a task for each item beside shared tasks, in turn in one process",
        ITEM_TASK,
        7,
        _divided(measure_item_task),
    ),
    Suite(
        "small",
        "batches of 1, 3, 10 and 30 items, one after another and many at once",
        SMALL,
        3,
        _divided(measure_small),
    ),
    Suite(
        "waiting",
        "share of a core of 100, 1,000 and 10,000 batches that only wait",
        WAITING,
        3,
        _divided(measure_waiting),
    ),
    Suite("nested", "1,000 items that map over ten children each", NESTED, 3, _divided(measure_nested)),
    Suite(
        "processes",
        "worker processes: the driver's cost, round trips, waits and work on two cores, beside pools of processes",
        PROCESSES,
        3,
        _divided(measure_processes),
        group="more",
    ),
    Suite(
        "ray",
        "actors on a local Ray: the driver's cost, round trips and waits, beside a call per item, Ray Data and Dask",
        ON_RAY,
        3,
        _divided(measure_ray),
        group="ray",
    ),
    Suite(
        "costs",
        "retries, threads, a journal and 10,000 items at once, each beside the same by hand",
        COSTS,
        3,
        _divided(measure_costs),
    ),
    Suite(
        "parts",
        "cost of each part of the telemetry, and of a service's own provider",
        PARTS,
        7,
        _divided(measure_parts),
    ),
    Suite("prices", "cost of each call to a service's own provider", PRICES, 5, _divided(measure_prices)),
    Suite(
        "delivery", "spans that arrive at an idle and at a slow collector", _DELIVERING, 5, _divided(measure_delivery)
    ),
    Suite("journal", "cost of a durable item", WAYS, 5, _divided(measure_journal)),
    Suite("startup", "imports, the command, a runtime's start and end", STARTS, 5, _startup),
    Suite("scrape", "scrapes of /metrics with 64 nodes on a saturated loop", (), 5, _scrape),
    Suite(
        "whatif",
        "error of the forecasts of flowrt whatif",
        FORECASTS,
        3,
        _divided(measure_forecasts),
        group="more",
    ),
    Suite("page", "flowrt report on a recording of 1,000,000 items: seconds and bytes", (), 5, _page, group="more"),
    Suite(
        "memory",
        "growth of memory with the number of items, up to 1,000,000",
        MEMORY,
        5,
        _divided(measure_memory),
    ),
    Suite("memory-peers", "growth of memory for the peers", MEMORY_PEERS, 5, _divided(measure_memory), group="peers"),
)


def suite(name: str) -> Suite:
    """The suite of a name.

    Raises:
        KeyError: The name is unknown.
    """
    return {each.name: each for each in SUITES}[name]
