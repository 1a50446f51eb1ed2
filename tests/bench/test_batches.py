"""Suites of small, waiting and nested batches, and of a task for each item."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bench.collector import collector
from bench.costs import COSTS, measure_costs
from bench.costs import main as run_cost
from bench.item_task import ITEM_TASK, item_us, measure_item_task, paired
from bench.nested import NESTED, measure_nested
from bench.report import lines
from bench.small import CASES, SMALL, measure_small, run_small
from bench.turns import take_turns
from bench.waiting import BATCHES, WAITING, measure_waiting, run_waiting

REFERENCE = pytest.param("nadoo", 1, marks=pytest.mark.parts)  # installed for the main Python only


def quiet(_: str) -> None:
    """Report nothing."""


def text(measured: dict[str, Any]) -> str:
    return "\n".join(lines(measured))


def named(arms: Any, name: str) -> Any:
    return next(arm for arm in arms if arm.name == name)


# -- turns -------------------------------------------------------------------------------------------------------------


def test_ways_take_turns_and_the_first_turn_does_not_count() -> None:
    ran: list[str] = []

    def way(name: str) -> Callable[[], Awaitable[None]]:
        async def turn() -> None:
            ran.append(name)

        return turn

    costs = asyncio.run(take_turns({"a": way("a"), "b": way("b")}, 2))
    assert ran == ["a", "b"] * 3
    assert {name: len(its) for name, its in costs.items()} == {"a": 2, "b": 2}
    assert all(turn["pace_us"] > 0 for its in costs.values() for turn in its)


# -- small batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "at_once"), [("bare", 1), ("runtime", 1), ("delivered", 100), REFERENCE])
def test_small_batches_run_beside_gather_in_one_process(name: str, at_once: int) -> None:
    with collector() as url:
        run = run_small(named(SMALL, name), 3, at_once, 100, url, 1)
    assert set(run) == {"gather", name}
    for figures in run.values():
        assert figures["cpu_us"] > 0
        assert figures["p99_us"] >= figures["p50_us"] > 0


def test_small_suite_covers_every_size_and_reports_its_targets() -> None:
    ran: list[tuple[int, int, int]] = []
    ran_in_runtime: list[tuple[int, int]] = []

    def run(arm: Any, size: int, at_once: int, batches: int, url: str) -> dict[str, Any]:
        ran.append((size, at_once, batches))
        if arm.name == "runtime":
            ran_in_runtime.append((size, at_once))
        cost = {
            "gather": 20.0 if at_once < 1_000 else 44.0,
            "bare": 70.0,
            "default": 120.0 if at_once < 1_000 else 180.0,
            "delivered": 200.0,
            "runtime": 100.0 if at_once < 1_000 else 125.0,
        }
        return {
            name: {"cpu_us": cost[name], "wall_us": cost[name], "p50_us": 10.0, "p99_us": 25.0}
            for name in ("gather", arm.name)
        }

    arms = [named(SMALL, name) for name in ("bare", "default", "delivered", "runtime")]
    measured = measure_small(arms, 2, 10, quiet, run)
    assert {(size, at_once) for size, at_once, _ in ran} == set(CASES)
    assert {batches for _, at_once, batches in ran if at_once == 100} == {100}  # each of the 100 clients runs one
    shown = text(measured)
    assert "batches of 1 item, one after another" in shown
    assert "batches of 30 items, 100 at once" in shown
    assert ran_in_runtime == [(3, 1)] * 2 + [(3, 4_000)] * 2
    before, among = shown.split("a batch of 3 items among 4,000, beside one alone")
    rows = [line for line in among.splitlines() if "`" in line]
    assert [line.split()[-3:] for line in rows] == [["2.20x"] * 3, ["2.20x"] * 3, ["1.25x"] * 3]
    assert ["Runtime" in line for line in rows] == [False, True, True]
    assert "Runtime" not in before
    assert "MISSED  CPU of a batch of three among 4,000, default, of one alone: 1.5 (target <= 1.3" in shown
    assert "MISSED  CPU of a batch of three, bare, of gather: 3.5 (target <= 3; rounds 3.5 to 3.5)" in shown
    assert "met     CPU of a batch of three, delivered, of gather: 10 (target <= 11" in shown
    assert "met     p99 of a batch of three, delivered, of its median: 2.5 (target <= 3" in shown


# -- waiting batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gather", "delivered"])
def test_waiting_batches_are_measured_and_end(name: str) -> None:
    with collector() as url:
        run = run_waiting(named(WAITING, name), 20, 0.2, url)
    assert run["share"] >= 0
    assert run["each_us"] > 0


def test_waiting_suite_reports_shares_of_a_core() -> None:
    def run(arm: Any, batches: int, seconds: float, url: str) -> dict[str, float]:
        return {"share": batches / 200_000, "each_us": 12.0}

    measured = measure_waiting([named(WAITING, "default")], 1, 1, quiet, run)
    assert [case["batches"] for case in measured["waiting"]] == list(BATCHES)
    shown = text(measured)
    assert "met     1,000 waiting batches with default telemetry, % of a core: 0.5 (target <= 1)" in shown
    assert "MISSED  10,000 waiting batches with default telemetry, % of a core: 5 (target <= 3)" in shown


# -- nested batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parts
def test_nested_batches_run_beside_gather_in_one_process() -> None:
    measured = measure_nested(NESTED, 1, 100, quiet)
    assert measured["nested"]["items"] == 100
    assert {name: set(run) for name, (run,) in measured["nested"]["runs"].items()} == {
        arm.name: {"gather", arm.name} for arm in NESTED
    }
    assert "10 items that map over 10 children each" in text(measured)


def test_nested_ratio_is_of_the_cheapest_turns() -> None:
    def run(arm: Any, outer: int, url: str) -> dict[str, Any]:
        cost = [{"cpu_s": s, "wall_s": s, "pace_us": 1.0} for s in (0.3, 0.1)]
        return {"gather": cost, arm.name: [{**turn, "cpu_s": turn["cpu_s"] * 3} for turn in cost]}

    shown = text(measure_nested([named(NESTED, "bare"), named(NESTED, "delivered")], 1, 1, quiet, run))
    assert "MISSED  CPU of a nested child, bare, of gather: 3 (target <= 2)" in shown
    assert "met     CPU of a nested child, delivered, of gather: 3 (target <= 4)" in shown


# -- a task for each item ----------------------------------------------------------------------------------------------


def test_item_task_compares_within_a_round_at_one_pace() -> None:
    def run(names: Any, items: int, rounds: int, url: str) -> dict[str, Any]:
        us = {"nadoo": 20.0, "shared": 4.0, "per-item": 6.0, "delivered": 10.0}
        return {
            name: [{"cpu_s": cost * items * 1e-6 * pace, "wall_s": 1.0, "pace_us": pace} for pace in (1.0, 1.0, 2.0)]
            for name, cost in us.items()
        }

    arms = [arm._replace(task_per_item=None if arm.task_per_item is None else False, needs=()) for arm in ITEM_TASK]
    measured = measure_item_task(arms, 3, 10, quiet, run)
    assert item_us(measured, "shared") == pytest.approx([4.0, 4.0, 4.0])
    assert paired(measured, "per-item", "shared", ratio=False) == pytest.approx([2.0, 2.0, 2.0])
    shown = text(measured)
    assert "met     µs of CPU an item of a task for each item over shared tasks: 2 (target <= 2.5" in shown
    assert "met     CPU with a task for each item, telemetry off, of nadoo-flow-core: 0.3 (target <= 0.34" in shown
    assert "met     CPU with a task for each item, everything on, of nadoo-flow-core: 0.5 (target <= 0.55" in shown


def test_item_task_without_the_parameter_measures_shared_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.item_task._has_parameter", lambda: False)
    assert named(ITEM_TASK, "per-item").missing == "BatchProcessor has no task_per_item"
    assert named(ITEM_TASK, "shared").missing is None


@pytest.mark.parts
def test_item_task_runs_in_one_process() -> None:
    measured = measure_item_task(ITEM_TASK, 1, 100, quiet)
    assert set(measured["item_task"]["turns"]) == {arm.name for arm in ITEM_TASK}
    assert "1,000 no-op items, 100 at once, in turn in one process" in text(measured)


# -- costs beside the same by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.name)
def test_both_ways_of_a_cost_run_in_one_process(cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.costs.run_pinned", asyncio.run)  # the tests' process stays on its cores
    assert {name: len(turns) for name, turns in run_cost(cost.name, 20).items()} == {"by_hand": 5, "flowrt": 5}


def test_ratio_of_a_cost_is_of_the_cheapest_turns() -> None:
    def run(_: Any, items: int) -> dict[str, Any]:
        turn = {"wall_s": 1.0, "pace_us": 1.0}
        return {
            "by_hand": [{**turn, "cpu_s": items * 4e-6}, {**turn, "cpu_s": items * 2e-6}],
            "flowrt": [{**turn, "cpu_s": items * 9e-6}, {**turn, "cpu_s": items * 6e-6}],
        }

    shown = text(measure_costs(COSTS[:2], 1, 10, quiet, run))
    assert "MISSED  CPU of an item, retries, of the same by hand: 3 (target <= 1.4)" in shown
    assert "MISSED  CPU of an item, threads, of the same by hand: 3 (target <= 1.3)" in shown
