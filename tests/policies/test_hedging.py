"""Hedge: which attempts are stragglers, and how many hedges are granted."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt.policies.hedging import Hedge
from tests.policies.simulate import seeded

MS = 1_000_000


def test_no_attempt_is_a_straggler_before_the_minimum() -> None:
    tracker = Hedge("p95", minimum=20).begin()
    for _ in range(19):
        tracker.record(10 * MS)
    assert tracker.after_ns is None
    assert not tracker.due(10**15, 0, 100)
    tracker.record(10 * MS)
    assert tracker.due(11 * MS, 0, 100)
    assert not tracker.due(9 * MS, 0, 100)


def test_minimum_of_thousands_of_attempts_is_kept() -> None:
    tracker = Hedge("p95", minimum=3_000).begin()
    for _ in range(2_999):
        tracker.record(10 * MS)
    assert tracker.after_ns is None
    tracker.record(10 * MS)
    assert tracker.after_ns is not None


def test_straggler_exceeds_the_quantile_of_earlier_attempts() -> None:
    rng = seeded(1)
    tracker = Hedge("p90").begin()
    for _ in range(1000):
        tracker.record(round(rng.uniform(0, 100) * MS))
    assert tracker.after_ns == pytest.approx(90 * MS, rel=0.05)


def test_quantile_follows_a_service_that_changes() -> None:
    tracker = Hedge("p50").begin()
    for _ in range(5_000):
        tracker.record(10 * MS)
    for _ in range(2_000):
        tracker.record(1000 * MS)
    assert tracker.after_ns == pytest.approx(1000 * MS, rel=0.02)


def test_hedge_after_seconds_needs_no_samples() -> None:
    tracker = Hedge(after=2.0).begin()
    assert not tracker.learns
    assert [tracker.due(ms * MS, 0, 10) for ms in (1999, 2000)] == [False, True]
    assert repr(tracker) == "<HedgeTracker: after 2 s, 1 hedged>"


def test_item_gets_at_most_its_hedges_at_equal_intervals() -> None:
    tracker = Hedge(after=1.0, most=2, share=1.0).begin()
    assert tracker.due(1000 * MS, 0, 100)
    assert not tracker.due(1999 * MS, 1, 100)
    assert tracker.due(2000 * MS, 1, 100)
    assert not tracker.due(10**15, 2, 100)


@given(st.floats(0.001, 1), st.lists(st.booleans(), max_size=300))
def test_hedges_are_bounded_by_the_share(share: float, slow: list[bool]) -> None:
    tracker = Hedge(after=1.0, share=share).begin()
    granted = sum(tracker.due(5000 * MS if late else 0, 0, begun) for begun, late in enumerate(slow, start=1))
    assert granted == tracker.hedged <= math.ceil(1 + share * len(slow))
    if any(slow):
        assert granted >= 1, "one is always free"


def test_share_is_added_to_the_free_hedge() -> None:
    tracker = Hedge(after=1.0, share=0.1).begin()
    assert sum(tracker.due(5000 * MS, 0, 100) for _ in range(100)) == 11


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"after": "p0"}, "after must be a quantile from 'p1' to 'p99.9', or seconds, not 'p0'"),
        ({"after": "p100"}, "after must be a quantile"),
        ({"after": "95"}, "after must be a quantile"),
        ({"after": 0}, "after must be a number of seconds, or a quantile such as 'p95', above 0, not 0"),
        ({"after": math.nan}, "after must be"),
        ({"after": True}, "after must be"),
        ({"after": None}, "after must be"),
        ({"most": 0}, "most must be an integer of at least 1, not 0"),
        ({"share": 0}, "share must be a number above 0 and at most 1, not 0"),
        ({"share": 1.5}, "share must be"),
        ({"minimum": 0}, "minimum must be"),
    ],
)
def test_setting_out_of_range_is_refused_with_value_and_fix(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hedge(**wrong)
