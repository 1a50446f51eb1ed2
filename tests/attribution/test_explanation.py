"""The ledger in plain words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowrt import BatchProcessor
from flowrt.attribution.explanation import explain
from flowrt.attribution.stalls import Stall

Run = Callable[[Any], Any]
S = 1_000_000_000


def test_the_causes_come_by_their_share_with_advice() -> None:
    told = explain({"slots": 62 * S, "rate_limit": 21 * S, "tail": 17 * S}, limit=50, items=100, left=4)
    assert told == (
        "62 % of the time all 50 slots were busy: raise max_concurrency; 21 % waited for the rate limit or an open "
        "circuit; the last 4 % of items took 17 % of the time: a shorter item_timeout or a hedge would bound that"
    )


def test_what_took_little_is_left_out_and_gets_no_advice() -> None:
    told = explain({"slots": 91 * S, "consumer": 6 * S, "input": 3 * S}, limit=1)
    assert told == "91 % of the time the one slot was busy: raise max_concurrency; 6 % waited for results to be taken"


def test_a_blocked_loop_names_the_node_that_blocked_it_longest() -> None:
    stalls = [Stall(0, 1.0, node="innocent"), Stall(0, 3.0, node="culprit"), Stall(0, 9.0)]
    told = explain({"loop_blocked": S}, limit=2, stalls=stalls)
    assert told.startswith("100 % the event loop was blocked by node 'culprit': make what blocks a plain function")
    few = explain({"loop_blocked": 15 * S, "slots": 85 * S}, limit=2)
    assert few.endswith("15 % the event loop was blocked")  # by whom is not known, so no advice


@pytest.mark.parametrize("node", ["GET /users/{id}", "{share}", "{", "{}", "{0.__class__}"])
def test_a_node_s_name_may_hold_braces(node: str) -> None:
    told = explain({"loop_blocked": S}, limit=2, stalls=[Stall(0, 1.0, node=node)])
    assert told.startswith(f"100 % the event loop was blocked by node {node!r}: ")


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("input", "waited for input: more slots would not help"),
        ("backoff", "waited to try failed items again"),
        ("consumer", "waited for results to be taken: take them faster"),
        ("service", "every item left was running: only faster items would help"),
    ],
)
def test_each_cause_has_its_words(cause: Any, words: str) -> None:
    assert words in explain({cause: S}, limit=3)


def test_a_computing_loop_is_not_told_to_take_more_slots() -> None:
    told = explain({"service": S}, limit=3, computing_ns=S)
    assert told == "100 % the loop's thread was computing: more slots would not help"


def test_a_batch_of_no_time_has_nothing_to_explain() -> None:
    assert explain({"slots": 500}, limit=3) == ""


def test_a_report_says_it_of_its_batch(run_virtual: Run) -> None:
    async def node(n: int) -> None:
        await asyncio.sleep(9 if n == 11 else 1)

    report = run_virtual(BatchProcessor(node, 3).batch(range(12))).report
    assert report.bound_by["slots"] == 3
    assert report.explanation.startswith("the last 8 % of items took 67 % of the time: a shorter item_timeout")
    assert report.timeline[0][:2] == pytest.approx((0, report.timeline[0][1]))
    assert sum(end - begin for begin, end, _ in report.timeline) == pytest.approx(report.wall_time)
    assert report.stalls == []
    detail = report.detail
    assert detail.bound == report.bound_by
    assert detail.speedup["method"] == "held"


def test_without_an_account_there_is_nothing_to_say(run_virtual: Run) -> None:
    report = run_virtual(BatchProcessor(abs, telemetry=False).batch([1])).report
    assert (report.explanation, report.bound_by, report.timeline, report.stalls) == ("", {}, [], [])
    assert report.speedup is None
