"""Intervals of a loop, which ledgers look up when they need them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt.attribution.ledger import CAUSES, CONSUMER, INPUT, LOOP_BLOCKED, RATE_LIMIT, SERVICE, SLOTS, Ledger
from flowrt.attribution.loop_time import BLOCKED, COMPUTING, LATE_NS, LoopTime

MS = 1_000_000
S = 1_000 * MS


def opened(loop_time: LoopTime, at_ns: int = 0) -> Ledger:
    ledger = Ledger()
    ledger.open(at_ns)
    ledger.follow(loop_time)
    return ledger


def test_ledger_that_only_waits_is_charged_at_its_end() -> None:
    loop_time = LoopTime()
    ledger = opened(loop_time)
    ledger.wait(INPUT, 1 * S)
    for second in range(2, 10):
        loop_time.add(BLOCKED, second * S, second * S + 100 * MS)
    assert ledger.since_ns == 1 * S
    ledger.close(20 * S)
    assert (ledger.charged[SLOTS], ledger.charged[INPUT]) == (1 * S, 19 * S - 800 * MS)
    assert ledger.charged[LOOP_BLOCKED] == 800 * MS


def test_computing_is_service_only_while_items_wait_for_slots() -> None:
    loop_time = LoopTime()
    ledger = opened(loop_time)
    loop_time.add(COMPUTING, 1 * S, 2 * S)
    ledger.wait(CONSUMER, 3 * S)
    loop_time.add(COMPUTING, 3 * S, 4 * S)
    ledger.close(5 * S)
    assert (ledger.charged[SLOTS], ledger.charged[SERVICE], ledger.charged[CONSUMER]) == (2 * S, 1 * S, 2 * S)
    assert ledger.computing_ns == 1 * S


def test_interval_that_grows_after_it_was_charged_is_charged_once() -> None:
    loop_time = LoopTime()
    ledger = opened(loop_time)
    loop_time.add(COMPUTING, 1 * S, 2 * S)
    ledger.settle(2 * S)
    loop_time.add(COMPUTING, 2 * S, 3 * S)
    assert ledger.read(4 * S)["service"] == 2 * S
    ledger.close(4 * S)
    assert ledger.charged[SERVICE] == ledger.computing_ns == 2 * S


def test_interval_that_grows_after_a_batch_began_is_charged_from_then_on() -> None:
    loop_time = LoopTime()
    loop_time.add(COMPUTING, 1 * S, 2 * S)
    ledger = opened(loop_time, 2 * S)
    loop_time.add(COMPUTING, 2 * S, 3 * S)
    ledger.close(4 * S)
    assert (ledger.charged[SERVICE], ledger.charged[SLOTS]) == (1 * S, 1 * S)


def test_batch_that_starts_in_a_long_turn_is_not_blocked_by_its_rest() -> None:
    loop_time = LoopTime()
    loop_time.due_ns = 1 * S
    ledger = opened(loop_time, 5 * S)
    assert ledger.read(5 * S + LATE_NS - 1)["loop_blocked"] == 0
    assert ledger.read(5 * S + LATE_NS)["loop_blocked"] == LATE_NS
    loop_time.add(BLOCKED, 1 * S, 5 * S + 1 * MS)
    loop_time.due_ns = 9 * S
    ledger.close(6 * S)
    assert ledger.charged[LOOP_BLOCKED] == 0


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 60),  # milliseconds that pass
        st.sampled_from(["wait", "resume", "blocked", "computing", "exhausted", "available", "vacated"]),
        st.sampled_from([INPUT, RATE_LIMIT, CONSUMER]),
    ),
    max_size=60,
)


@given(EVENTS)
def test_ledger_charged_late_agrees_with_one_charged_at_once(events: list[tuple[int, str, int]]) -> None:
    loop_time = LoopTime()
    lazy, eager = opened(loop_time), opened(loop_time)
    waits = dict.fromkeys((INPUT, RATE_LIMIT, CONSUMER), 0)
    now = 0
    for passed_ms, event, cause in events:
        before, now = now, now + passed_ms * MS
        if event == "blocked":
            loop_time.add(BLOCKED, before, now)
        elif event == "computing":
            loop_time.add(COMPUTING, before, now)
        for ledger in (lazy, eager):
            if event == "wait":
                ledger.wait(cause, now)
            elif event == "resume" and waits[cause]:
                ledger.resume(cause, now)
            elif event == "exhausted":
                ledger.input_exhausted(now, now, 3, ended=passed_ms % 2 == 0)
            elif event == "available":
                ledger.input_available(now)
            elif event == "vacated":
                ledger.slot_vacated(now)
        waits[cause] += (event == "wait") - (event == "resume" and waits[cause] > 0)
        eager.settle(now)
        assert lazy.read(now) == dict(zip(CAUSES, eager.charged, strict=True))
    lazy.close(now)
    assert lazy.charged == eager.charged
    assert lazy.computing_ns == eager.computing_ns
    assert sum(lazy.charged) == now
    pieces = list(lazy.timeline())
    assert [sum(charged[cause] for _, _, charged in pieces) for cause in CAUSES] == list(lazy.charged)


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=700))
def test_dropped_intervals_are_those_that_were_read(steps: list[tuple[int, bool]]) -> None:
    loop_time = LoopTime()
    ledger = opened(loop_time)
    now = blocked = 0
    for gap_ms, settle in steps:
        begin = now + gap_ms * MS
        now = begin + 30 * MS
        loop_time.add(BLOCKED, begin, now)
        blocked += 30 * MS
        if settle:
            ledger.settle(now)
            loop_time.drop_before(loop_time.position)
    ledger.close(now)
    assert ledger.charged[LOOP_BLOCKED] == blocked


# -- busy time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late_ms", "cpu_ms", "rested", "busy_ms", "end_ms"),  # at the end: after 1 ms more
    [
        (0, 10, True, 10, 11),
        (1, 10, True, 10, 11),  # as late as the timer rounds
        (5, 10, True, 30, 30),  # it found the loop in a turn, although the thread computed for less
        (75, 10, True, 0, 1),  # blocked for most of the time: items are examined one by one
        (75, 90, True, 15, 16),
        (75, 10, False, 25, 25),  # never at rest on a shared processor
    ],
)
def test_loop_is_busy_while_it_computes_or_beats_find_it_in_a_turn(
    late_ms: int, cpu_ms: int, rested: bool, busy_ms: int, end_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_ns = 7_000_000
    monkeypatch.setattr(time, "thread_time_ns", lambda: cpu_ns)
    loop_time, ledger = LoopTime(), Ledger()
    loop_time.beaten_cpu_ns = cpu_ns
    ledger.follow(loop_time, shared=True)
    assert ledger.busy_time is not None
    loop_time.add_beat((25 + late_ms) * 1_000_000, late_ms * 1_000_000, cpu_ms * 1_000_000, rested=rested)
    loop_time.beaten_cpu_ns += cpu_ms * 1_000_000
    assert ledger.busy_ns == busy_ms * 1_000_000
    cpu_ns = loop_time.beaten_cpu_ns + 1_000_000
    ledger.busy_time.end((26 + late_ms) * 1_000_000, 0)
    loop_time.beaten_cpu_ns += 9_000_000  # after the batch's end
    assert ledger.busy_ns == end_ms * 1_000_000


def test_short_batch_counts_as_busy_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    ledger.follow(LoopTime(), shared=True)
    monkeypatch.setattr(time, "thread_time_ns", None)  # reading it takes long
    assert ledger.busy_time is not None
    ledger.busy_time.end(900_000, 0)
    assert ledger.busy_ns == 900_000
    ledger.follow(LoopTime())
    assert ledger.busy_ns == 0, "an only item never waits for another"
    assert Ledger().busy_ns == 0
