"""Quantiles in constant memory."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt._util.quantiles import Quantiles


@given(st.lists(st.floats(1e-6, 1e5), min_size=1), st.floats(0, 1))
def test_quantile_is_within_two_percent_of_the_true_value(values: list[float], q: float) -> None:
    quantiles = Quantiles()
    for value in values:
        quantiles.add(value)
    true = sorted(values)[math.floor(q * (len(values) - 1))]
    assert quantiles.at(q) == pytest.approx(true, rel=0.02)


def test_totals_are_exact_and_memory_is_bounded() -> None:
    quantiles = Quantiles()
    values = [i / 1000 for i in range(100_000)]
    for value in values:
        quantiles.add(value)
    assert quantiles.count == 100_000
    assert quantiles.total == pytest.approx(sum(values))
    assert quantiles.at(0.5) == pytest.approx(statistics.median(values), rel=0.02)
    assert (quantiles.at(0), quantiles.at(1)) == (pytest.approx(0, abs=1e-6), pytest.approx(values[-1], rel=0.02))
    assert len(quantiles._buckets) < 800


def test_empty_histogram_gives_zero() -> None:
    assert Quantiles().at(0.5) == 0
