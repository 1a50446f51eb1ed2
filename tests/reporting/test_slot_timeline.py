"""Slot timeline: slots are reconstructed from the times, and the chart stays small."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowrt.reporting.slot_timeline import make_lanes

from .conftest import attempts_of

_SPANS = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 300)), min_size=1, max_size=60)


@given(_SPANS)
def test_bars_of_a_slot_do_not_overlap(spans: list[tuple[int, int]]) -> None:
    rows: list[dict[str, Any]] = [{"start": begin, "end": begin + length} for begin, length in spans]
    lanes = make_lanes(attempts_of(rows), 2000)
    assert lanes is not None
    most = max(sum(r["start"] <= at < r["end"] for r in rows) for at in {r["start"] for r in rows})
    assert lanes.slots == most
    bars = sorted(zip(lanes.lane, lanes.begin, lanes.end, strict=True))
    for (one, _, end), (other, begin, _) in pairwise(bars):
        assert one != other or begin >= end - 1e-12
    if lanes.slots <= 50:
        assert sum(lanes.count) == len(rows)


def test_100_000_attempts_are_merged_except_stragglers() -> None:
    draw = Random(1)  # noqa: S311  # no secret
    rows: list[dict[str, Any]] = []
    for slot in range(200):
        at = slot
        for _ in range(500):
            took = draw.randint(500, 1500)
            rows.append({"start": at, "end": at + took})
            at += took
    rows[12_345]["end"] = rows[12_345]["start"] + 90_000
    lanes = make_lanes(attempts_of(rows), 700_000)
    assert lanes is not None
    assert lanes.attempts == 100_000
    assert len(lanes.shown) <= 50
    assert len(lanes.lane) < 50_000
    (at,) = [place for place, index in enumerate(lanes.index) if index == 12_345]
    assert lanes.straggler[at] == 1


def test_hedge_holds_no_slot() -> None:
    rows = [{"start": 0, "end": 100}, {"index": 0, "start": 50, "end": 90, "hedge": True, "last": False}]
    lanes = make_lanes(attempts_of(rows), 100)
    assert lanes is not None
    assert lanes.slots == 1
