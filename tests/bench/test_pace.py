"""Pace of the machine, the unit of times."""

from __future__ import annotations

import signal
import time

import pytest

from bench import pace
from bench.pace import Pace, pacing


def test_pace_is_the_inverse_of_the_mean_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    turn_s = iter([1e-6] * 3 + [3e-6] * 3)
    monkeypatch.setattr(pace, "_timed", lambda: next(turn_s) * 50)
    found = Pace()
    found.look()
    found.look()
    assert found.us == pytest.approx(1.5)  # half of the time at 1 a microsecond, half at a third


def test_pace_counts_the_fastest_try(monkeypatch: pytest.MonkeyPatch) -> None:
    turn_s = iter([9e-6, 2e-6, 3e-6])
    monkeypatch.setattr(pace, "_timed", lambda: next(turn_s) * 50)
    found = Pace()
    found.look()
    assert found.us == pytest.approx(2.0)


def test_pacing_follows_the_block_and_restores_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_EVERY_S", 0.001)
    before = signal.getsignal(signal.SIGALRM)
    until = time.monotonic() + 60
    with pacing() as found:
        while not found.own_s and time.monotonic() < until:
            sum(range(1_000))
    assert found.own_s > 0
    assert found.us > 0
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
