"""Explanation of a batch in one sentence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from flowrt import BatchProcessor, BatchRecord
from flowrt._util.cpu_time import CpuTime
from flowrt.attribution.explanation import explain, explain_batch, why_overstated
from flowrt.attribution.ledger import CAUSES, LOOP_BLOCKED, Cause
from flowrt.attribution.speedup import Speedup
from flowrt.attribution.stalls import Stall

Run = Callable[[Any], Any]
S = 1_000_000_000


def threads(cpu_s: float, wall_s: float) -> CpuTime:
    times = CpuTime()
    times.cpu_ns, times.wall_ns = round(cpu_s * S), round(wall_s * S)
    return times


def test_causes_come_by_their_share_with_advice() -> None:
    text = explain({"slots": 62 * S, "rate_limit": 21 * S, "tail": 17 * S}, limit=50, items=100, left=4)
    assert text == (
        "62 % of the time all 50 slots were busy: raise max_concurrency; 21 % waited for the rate limit or an open "
        "circuit; the last 4 % of items took 17 % of the time"
    )


@pytest.mark.parametrize(
    ("items", "left", "words"),
    [
        (100, 4, "the last 4 % of items took 100 % of the time"),
        (4, 4, "the slowest items took 100 % of the time"),  # all had a slot from the beginning
        (0, 0, "the last items took 100 % of the time"),
    ],
)
def test_tail_is_named_by_its_share_of_the_items(items: int, left: int, words: str) -> None:
    assert explain({"tail": S}, limit=50, items=items, left=left).startswith(f"{words}: ")


@pytest.mark.parametrize("failed", [0, 50])
@pytest.mark.parametrize("second", CAUSES)
@pytest.mark.parametrize("first", CAUSES)
def test_only_the_largest_cause_with_advice_gives_advice(first: Cause, second: Cause, failed: int) -> None:
    def explained(bound_ns: dict[Cause, int]) -> str:
        stalls = [Stall(0, 60.0, node="culprit")]
        return explain(bound_ns, limit=10, items=100, failed=failed, left=3, stalls=stalls)

    both = explained({first: 60 * S, second: 40 * S} if first != second else {first: 100 * S})
    clauses = [clause.partition(": ") for clause in both.split("; ")]
    advised = [place for place, (_, _, advice) in enumerate(clauses) if advice]
    assert len(advised) <= 1
    if ": " in explained({first: 100 * S}):
        assert advised == [0]


def test_failures_come_before_speed() -> None:
    for cause in ("slots", "backoff", "service"):
        assert explain({cause: S}, limit=3, items=90, failed=9).endswith("find out first why 10 % of the items failed")
        meanwhile = explain({cause: S}, limit=50, items=90, completed=45, failed=9)  # the others are in flight
        assert meanwhile.endswith("find out first why 20 % of the items failed")


def test_workers_on_every_core_are_advised_only_to_items_that_wait() -> None:
    text = explain({"slots": S}, limit=50, items=100, in_process=False, plain_workers=4, cores=4)
    assert text == (
        "100 % of the time all 4 workers were busy: more of them would help only if the items wait, or with more cores"
    )


@pytest.mark.parametrize(
    ("workers", "limit", "items", "advice"),
    [
        (2, 50, 100, "all 2 workers were busy: add workers, of which each runs one item at a time"),
        (1, 1, 100, "the one worker was busy: add workers, of which each runs one item at a time"),
        (2, 50, 20, "all 2 workers were busy: add workers, of which each runs one item at a time"),  # all have a slot
        (8, 4, 100, "all 4 slots were busy: raise max_concurrency"),
        (2, 4, 2, "every item left was running: only faster items would help"),
        (0, 50, 100, "all 50 slots were busy: raise max_concurrency"),
    ],
)
def test_workers_are_advised_where_slots_outnumber_them(workers: int, limit: int, items: int, advice: str) -> None:
    text = explain({"slots": S}, limit=limit, items=items, in_process=False, plain_workers=workers, cores=4)
    assert text.endswith(advice)


def test_more_slots_are_no_advice_where_a_rate_limit_binds() -> None:
    text = explain({"rate_limit": 8 * S, "slots": 2 * S}, limit=3, items=90)
    assert text == (
        "80 % waited for the rate limit or an open circuit: more slots would not help, a higher limit would; "
        "20 % of the time all 3 slots were busy"
    )


def test_small_share_is_left_out_and_gets_no_advice() -> None:
    text = explain({"slots": 91 * S, "consumer": 6 * S, "input": 3 * S}, limit=1)
    assert text == "91 % of the time the one slot was busy: raise max_concurrency; 6 % waited for results to be taken"


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


# -- a blocked loop ----------------------------------------------------------------------------------------------------


def test_culprit_of_nearly_all_of_the_time_is_named_with_advice() -> None:
    stalls = [Stall(0, 0.95, node="culprit"), Stall(0, 0.05, node="innocent")]
    assert explain({"loop_blocked": S}, limit=2, stalls=stalls) == (
        "100 % the event loop was blocked by node 'culprit': make what blocks a plain function, which runs in a thread"
    )


def test_culprit_of_a_small_part_is_not_blamed_for_the_rest() -> None:
    stalls = [*[Stall(0, 0.3)] * 9, Stall(0, 0.4, node="fetch")]
    assert explain({"loop_blocked": 4 * S, "service": S}, limit=2, stalls=stalls).startswith(
        "80 % the event loop was blocked (10 % by node 'fetch', 90 % unknown); 20 %"
    )
    few = [*[Stall(0, 0.3)] * 9, Stall(0, 0.1, node="fetch", stack="fetch")]
    assert explain({"loop_blocked": 3 * S}, limit=2, stalls=few) == "100 % the event loop was blocked, cause unknown"


def test_several_culprits_share_the_blame() -> None:
    stalls = [Stall(0, 0.6, node="parse"), Stall(0, 0.3, garbage_collection=True)]
    assert explain({"loop_blocked": S}, limit=2, stalls=stalls) == (
        "100 % the event loop was blocked (60 % by node 'parse', 30 % by Python's garbage collector, 10 % unknown): "
        "make what blocks a plain function, which runs in a thread"
    )


@pytest.mark.parametrize(("part", "advised"), [(0.5, True), (0.49, False)])
def test_culprit_of_less_than_half_of_the_time_gets_no_advice(part: float, advised: bool) -> None:
    text = explain({"loop_blocked": S}, limit=2, stalls=[Stall(0, part, node="parse")])
    assert f"{100 * part:.0f} % by node 'parse'" in text
    assert ("make what blocks a plain function" in text) is advised


def test_own_stalls_of_a_batch_in_threads_are_not_blamed_on_its_node() -> None:
    batch = BatchRecord(name="b", node_id="parse", node_type="t", batch_id="own", limit=2, keeps_ledger=True)
    batch.cpu_time = threads(0.0, 2.0)
    assert batch.ledger is not None
    bound_ns = {**dict.fromkeys(CAUSES, 0), "loop_blocked": S}
    batch.ledger.delays.stalls = [Stall(0, 1.0, node="parse", batch_id="own")]
    assert "parse" not in explain_batch(batch, bound_ns)
    batch.ledger.delays.stalls = [Stall(0, 1.0, node="parse", batch_id="own", garbage_collection=True)]
    assert "by Python's garbage collector" in explain_batch(batch, bound_ns)
    batch.ledger.delays.stalls = [Stall(0, 1.0, node="other", batch_id="another")]
    assert "by node 'other'" in explain_batch(batch, bound_ns)


def test_garbage_collector_gets_advice_of_its_own() -> None:
    text = explain({"loop_blocked": S}, limit=2, stalls=[Stall(0, 1.0, garbage_collection=True)])
    assert text.endswith("by Python's garbage collector: batch_as_completed keeps no results for it to go through")


def test_unknown_culprit_is_found_by_a_watchdog() -> None:
    assert explain({"loop_blocked": S}, limit=2, stalls=[Stall(0, 1.0)]) == (
        "100 % the event loop was blocked, cause unknown: run it with flowrt.run, which finds what blocks"
    )
    assert explain({"loop_blocked": S}, limit=2) == "100 % the event loop was blocked, cause unknown"


@pytest.mark.parametrize("node", ["GET /users/{id}", "{share}", "{", "{}", "{0.__class__}"])
def test_name_of_a_node_may_hold_braces(node: str) -> None:
    text = explain({"loop_blocked": S}, limit=2, stalls=[Stall(0, 1.0, node=node)])
    assert text.startswith(f"100 % the event loop was blocked by node {node!r}: ")


# -- an overstated speedup ---------------------------------------------------------------------------------------------

PARSE = Stall(0, 0.2, node="parse", batch_id="another")
COMPUTED = "the items computed on one thread, and those that were ready waited for each other"


@pytest.mark.parametrize(
    ("blocked_s", "computing_s", "delayed_s", "stalls", "method", "words"),
    [
        (0.2, 0.0, 0.0, [], "held", "something blocked the event loop for 20 % of the time, and the other items"),
        (0.3, 0.0, 0.0, [PARSE], "held", "node 'parse' blocked the event loop for 30 % of the time"),
        (0.5, 0.0, 0.0, [PARSE], "held", "something blocked the event loop for 50 % of the time"),
        (0.3, 0.4, 0.0, [PARSE], "held", COMPUTED),
        (0.19, 0.2, 0.0, [], "held", COMPUTED),
        (0.0, 0.19, 4.1, [], "held", COMPUTED),
        (0.0, 0.19, 4.0, [], "sample", "the items took longer together than alone"),
        (0.0, 0.19, 4.0, [], "held", "the items waited for each other on one event loop"),
        (0.5, 0.4, 4.1, [PARSE], "cpu", "the items computed in threads, which waited for each other"),
    ],
)
def test_cause_of_an_overstated_speedup(
    blocked_s: float, computing_s: float, delayed_s: float, stalls: list[Stall], method: Any, words: str
) -> None:
    batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="own", limit=9, keeps_ledger=True)
    batch.started_ns, batch.finished_ns = S, 2 * S
    ledger = batch.ledger
    assert ledger is not None
    ledger.open(S)
    ledger.blocked(LOOP_BLOCKED, S, S + round(blocked_s * S))
    ledger.close(2 * S)
    ledger.computing_ns = round(computing_s * S)
    ledger.delays.known_ns = round(delayed_s * S)
    ledger.delays.stalls = stalls
    assert why_overstated(batch, Speedup(9.0, 1.0, 0.9, 1.1, method)).startswith(words)


def test_overstated_speedup_of_threads_that_is_not_known_claims_no_wait() -> None:
    batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="own", limit=9, keeps_ledger=True)
    assert why_overstated(batch, Speedup(9.0, None, 0.9, 1.1, "cpu")) == (
        "the items computed in threads, which may have waited for each other"
    )


# -- more slots --------------------------------------------------------------------------------------------------------


def test_more_slots_are_no_advice_where_no_item_waited_for_one() -> None:
    assert explain({"slots": S}, limit=50, items=1) == (
        "100 % every item left was running: only faster items would help"
    )
    assert "raise max_concurrency" not in explain({"slots": S}, limit=50, items=50)
    assert "raise max_concurrency" in explain({"slots": S}, limit=50, items=50, ended=False)
    assert "raise max_concurrency" in explain({"slots": S}, limit=50, items=51)


def test_more_slots_are_no_advice_where_items_fail() -> None:
    assert explain({"slots": S}, limit=5, items=100, failed=90) == (
        "100 % of the time all 5 slots were busy: find out first why 90 % of the items failed"
    )
    assert explain({"slots": S}, limit=5, items=100, failed=3).endswith("raise max_concurrency")


def test_more_slots_are_no_advice_where_python_computes() -> None:
    assert explain({"service": S}, limit=3, computing_ns=S, cores=8) == (
        "100 % Python itself was the bottleneck (one core full): "
        'do less per item, or use executor="processes", up to 3 times as fast on 3 cores'
    )


def test_threads_that_wait_for_each_other_get_processes_as_advice() -> None:
    advice = ': do less per item, or use executor="processes", up to 1.8 times as fast on 2 cores'
    cpu = threads(0.9, 8.0)
    assert explain({"slots": S}, limit=8, cpu=cpu, cores=2) == (
        f"100 % of the time all 8 slots were busy with threads that compute{advice}"
    )
    assert (
        explain({"service": S}, limit=8, cpu=cpu, cores=2)
        == f"100 % the threads computed and waited for each other{advice}"
    )
    assert explain({"loop_blocked": S}, limit=8, cpu=cpu, cores=2) == (
        f"100 % the event loop waited for threads that compute{advice}"
    )


def test_processes_are_advised_only_where_they_gain() -> None:
    less = "100 % Python itself was the bottleneck (one core full): do less per item"
    elsewhere = ', or use executor="processes" where there is more than this one core'
    assert explain({"service": S}, limit=8, computing_ns=S, cores=1) == less + elsewhere
    assert explain({"loop_blocked": S}, limit=8, cpu=threads(0.2, 8.0), cores=1).endswith(elsewhere)  # a starved core
    assert explain({"service": S}, limit=1, computing_ns=S, cores=1) == less
    assert explain({"service": S}, limit=1, computing_ns=S, cores=8) == less  # one item at a time
    assert explain({"service": S}, limit=8, items=200_000, computing_ns=S, cores=8) == less  # transport costs as much
    assert explain({"service": S}, limit=8, computing_ns=S, cores=8, in_process=False) == less  # the driver is full
    both_cores = threads(1.9, 2.0)  # functions that release the interpreter's lock
    assert "processes" not in explain({"slots": S}, limit=2, items=9, cpu=both_cores, cores=2)
    partly = threads(0.3, 1.0)  # the rest of the time they may have waited for something outside
    assert "processes" not in explain({"slots": S}, limit=2, items=9, cpu=partly, cores=2)


def test_node_that_computes_on_the_loop_gets_processes_as_advice() -> None:
    stalls = [Stall(0, 1.0, node="parse")]
    text = explain({"loop_blocked": S}, limit=4, stalls=stalls, blocked_computing_ns=S, cores=2)
    assert text == (
        "100 % the event loop was blocked by node 'parse', which computes: "
        'do less per item, or use executor="processes", up to 2 times as fast on 2 cores'
    )
    sleeps = explain({"loop_blocked": S}, limit=4, stalls=stalls, cores=2)
    assert sleeps.endswith("by node 'parse': make what blocks a plain function, which runs in a thread")
    collector = [Stall(0, 1.0, garbage_collection=True)]
    assert "which computes" not in explain({"loop_blocked": S}, limit=4, stalls=collector, blocked_computing_ns=S)


def test_threads_that_wait_for_something_else_get_more_slots_as_advice() -> None:
    assert explain({"slots": S}, limit=8, cpu=threads(0.05, 8.0)).endswith("raise max_concurrency")


def test_plain_function_gets_no_advice_to_use_a_plain_function(run: Run) -> None:
    def pure(_: int) -> int:
        until = time.thread_time() + 0.03
        while time.thread_time() < until:
            pass
        return 0

    report = run(BatchProcessor(pure, 8).batch(range(24))).report
    assert "plain function" not in report.explanation
    assert "do less per item" in report.explanation
    assert report.speedup.measured is None or report.speedup.measured < 2.5


def test_batch_of_no_time_has_no_explanation() -> None:
    assert explain({"slots": 500}, limit=3) == ""


def test_report_explains_its_batch(run_virtual: Run) -> None:
    async def node(n: int) -> None:
        await asyncio.sleep(9 if n == 11 else 1)

    report = run_virtual(BatchProcessor(node, 3).batch(range(12))).report
    assert report.bound_by["slots"] == 3
    assert " of items took 67 % of the time: a shorter item_timeout" in report.explanation.split("; ")[0]
    begins, ends, _ = zip(*report.timeline, strict=True)
    assert begins == (0, *ends[:-1])
    assert ends[-1] == pytest.approx(report.wall_time)
    assert report.stalls == []
    detail = report.detail
    assert detail.bound == report.bound_by
    assert detail.speedup["method"] == "held"


def test_batch_without_a_ledger_has_no_explanation(run_virtual: Run) -> None:
    report = run_virtual(BatchProcessor(abs, telemetry=False).batch([1])).report
    assert (report.explanation, report.bound_by, report.timeline, report.stalls) == ("", {}, [], [])
    assert report.speedup is None


@pytest.mark.parametrize(("busy_s", "overstated"), [(0.7, False), (0.1, True)])
def test_more_slots_are_no_advice_where_one_loop_bounds_the_batch(busy_s: float, overstated: bool) -> None:
    text = explain({"slots": S}, limit=4, items=600, busy_ns=round(busy_s * S), overstated=overstated)
    assert text.startswith(
        "100 % of the time all 4 slots were busy with items that waited for each other on one event loop: do less per"
    )
    assert "raise max_concurrency" in explain({"slots": S}, limit=4, items=600, busy_ns=round(0.6 * S))


def test_more_slots_are_no_advice_beside_an_overstated_speedup() -> None:
    batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="own", limit=4, keeps_ledger=True)
    batch.started_ns, batch.finished_ns, batch.pulled = S, 2 * S, 600
    assert batch.ledger is not None
    batch.ledger.open(S)
    batch.ledger.close(2 * S)
    batch.speedup = Speedup(4.0, 1.0, 0.9, 1.3, "held")
    assert "raise max_concurrency" not in explain_batch(batch)
    batch.speedup = Speedup(4.0, 4.0, 3.0, 4.0, "held")
    assert explain_batch(batch).endswith("raise max_concurrency")
