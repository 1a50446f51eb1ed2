"""The Universal Scalability Law, fitted."""

from __future__ import annotations

import math
import random

import pytest

from flowrt.loadtest.usl import Scalability, fit_usl

LEVELS = (1, 2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize(
    ("contention", "coherency"), [(0.0, 0.0), (0.05, 0.0), (0.0, 0.002), (0.03, 0.0005), (0.2, 0.01)]
)
def test_what_follows_the_law_is_found_again(contention: float, coherency: float) -> None:
    law = Scalability(100.0, contention, coherency, 1.0)
    fitted = fit_usl([(n, law.throughput(n)) for n in LEVELS])
    assert fitted is not None
    assert fitted.rate == pytest.approx(100.0)
    assert fitted.contention == pytest.approx(contention, abs=1e-9)
    assert fitted.coherency == pytest.approx(coherency, abs=1e-9)
    assert fitted.fit == pytest.approx(1.0)


def test_noise_moves_the_peak_by_little() -> None:
    law, chance = Scalability(100.0, 0.03, 0.0005, 1.0), random.Random(1)  # noqa: S311  # to be the same every time is the point
    fitted = fit_usl([(n, law.throughput(n) * chance.uniform(0.97, 1.03)) for n in LEVELS])
    assert fitted is not None
    assert fitted.peak == pytest.approx(law.peak, rel=0.15)
    assert fitted.fit > 0.98


def test_coefficients_are_never_negative() -> None:
    better_than_linear = [(n, 10.0 * n**1.1) for n in LEVELS]
    fitted = fit_usl(better_than_linear)
    assert fitted is not None
    assert (fitted.contention, fitted.coherency) == (0.0, 0.0)
    assert fitted.knee == fitted.peak == math.inf


def test_the_knee_is_where_throughput_for_latency_is_best() -> None:
    for contention, coherency in ((0.05, 0.0), (0.02, 0.001), (0.0, 0.002)):
        law = Scalability(1.0, contention, coherency, 1.0)
        power = {n: law.throughput(n) ** 2 / n for n in range(1, 500)}
        assert law.knee == pytest.approx(max(power, key=power.__getitem__), abs=1)
        assert law.knee <= law.peak


@pytest.mark.parametrize("points", [[], [(1, 1.0), (2, 2.0)], [(1, 0.0), (2, 0.0), (3, 0.0)], [(1, 5.0)] * 5])
def test_too_few_points_are_no_law(points: list[tuple[float, float]]) -> None:
    assert fit_usl(points) is None
