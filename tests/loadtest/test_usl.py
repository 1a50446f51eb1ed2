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
def test_fit_recovers_the_coefficients_of_the_law(contention: float, coherency: float) -> None:
    law = Scalability(100.0, contention, coherency)
    fitted = fit_usl([(n, law.throughput(n)) for n in LEVELS])
    assert fitted is not None
    assert fitted.rate == pytest.approx(100.0)
    assert fitted.contention == pytest.approx(contention, abs=1e-9)
    assert fitted.coherency == pytest.approx(coherency, abs=1e-9)
    assert fitted.error == pytest.approx(0.0, abs=1e-9)
    assert fitted.trusted


def test_noise_moves_the_peak_only_a_little() -> None:
    law, chance = Scalability(100.0, 0.03, 0.0005), random.Random(1)  # noqa: S311  # to be the same every time is the point
    fitted = fit_usl([(n, law.throughput(n) * chance.uniform(0.97, 1.03)) for n in LEVELS])
    assert fitted is not None
    assert fitted.peak == pytest.approx(law.peak, rel=0.15)
    assert 0 < fitted.error < 0.03


def test_coefficients_are_never_negative() -> None:
    better_than_linear = [(n, 10.0 * n**1.1) for n in LEVELS]
    fitted = fit_usl(better_than_linear)
    assert fitted is not None
    assert (fitted.contention, fitted.coherency) == (0.0, 0.0)
    assert fitted.knee == fitted.peak == math.inf


def test_knee_has_the_most_throughput_per_latency() -> None:
    for contention, coherency in ((0.05, 0.0), (0.02, 0.001), (0.0, 0.002)):
        law = Scalability(1.0, contention, coherency)
        power = {n: law.throughput(n) ** 2 / n for n in range(1, 500)}
        assert law.knee == pytest.approx(max(power, key=power.__getitem__), abs=1)
        assert law.knee <= law.peak


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_serial_node_has_knee_and_peak_at_one(noise: float) -> None:
    chance = random.Random(2)  # noqa: S311  # to be the same every time is the point
    fitted = fit_usl([(n, 50.0 * chance.uniform(1 - noise, 1 + noise)) for n in LEVELS])
    assert fitted is not None
    assert fitted.contention == pytest.approx(1.0, abs=0.05)
    assert fitted.knee == pytest.approx(1.0, abs=0.05)
    assert fitted.knee >= 1
    assert fitted.peak >= 1
    assert fitted.error <= noise


def test_bad_or_exact_fit_is_not_trusted() -> None:
    three = fit_usl([(1, 10.0), (2, 30.0), (4, 5.0)])
    wild = fit_usl([(1, 10.0), (2, 40.0), (4, 10.0), (8, 60.0), (16, 5.0)])
    assert three is not None
    assert wild is not None
    assert not three.trusted
    assert not wild.trusted


@pytest.mark.parametrize("points", [[], [(1, 1.0), (2, 2.0)], [(1, 0.0), (2, 0.0), (3, 0.0)], [(1, 5.0)] * 5])
def test_too_few_points_give_no_law(points: list[tuple[float, float]]) -> None:
    assert fit_usl(points) is None
