"""Drift of latencies, and the interval of a share."""

from __future__ import annotations

import random

import pytest

from flowrt.loadtest.measurement import Drift, share_interval


def line(slope: float, noise: float, seed: int, count: int = 200) -> Drift:
    drift, chance = Drift(), random.Random(seed)  # noqa: S311  # to be the same every time is the point
    for place in range(count):
        at_s = place / count * 5
        drift.add(at_s, 0.05 + slope * at_s + chance.gauss(0, noise))
    return drift


def test_drift_slope_is_that_of_the_line() -> None:
    assert line(0.1, 0.0, 0).slope == pytest.approx(0.1)
    assert line(0.0, 0.0, 0).slope == pytest.approx(0.0)
    assert line(0.1, 0.01, 1).slope == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05, 0.5])
def test_steady_latencies_have_no_certain_drift(noise: float) -> None:
    assert sum(line(0.0, noise, seed).certain for seed in range(50)) <= 1


@pytest.mark.parametrize("slope", [0.05, 0.3, 0.9])
def test_growing_latencies_have_a_certain_drift(slope: float) -> None:
    assert all(line(slope, 0.02, seed).certain for seed in range(20))


def test_passes_share_one_slope_and_have_their_own_level() -> None:
    low, high = line(0.0, 0.001, 1), Drift()
    for place in range(200):
        high.add(place / 40, 3.0)  # later in the day, on a slower machine
    low.merge(high)
    assert abs(low.slope) < 0.01
    assert not low.certain
    grown = line(0.2, 0.001, 1)
    grown.merge(line(0.2, 0.001, 2))
    assert grown.slope == pytest.approx(0.2, rel=0.05)
    assert grown.certain


def test_few_latencies_have_no_certain_drift() -> None:
    assert not line(0.9, 0.0, 0, count=10).certain
    assert not Drift().certain


def test_share_of_nothing_is_unknown() -> None:
    assert (share_interval(0, 0).low, share_interval(0, 0).high) == (0.0, 1.0)
    assert share_interval(1, 50).low < 0.01 < share_interval(1, 50).high
    half = share_interval(5, 10)  # R: prop.test(5, 10, correct = FALSE)
    assert (half.low, half.high) == pytest.approx((0.2365930905, 0.7634069095), abs=1e-9)
