"""What worker processes would gain."""

from __future__ import annotations

import pytest

from flowrt.attribution.processes_gain import advise_processes, processes_gain

S = 1_000_000_000


@pytest.mark.parametrize(
    ("cpu_s", "items", "workers", "gain"),
    [
        (1.0, 0, 2, 2.0),
        (1.0, 1_000, 2, 2 / 1.007),  # 1 ms an item
        (1.0, 10_000, 2, 2 / 1.07),  # 100 µs an item
        (1.0, 100_000, 8, 1.0),  # 10 µs an item: the driver is as busy as before
        (0.5, 0, 2, 1 / 0.75),  # half of the time something else took
        (2.0, 0, 2, 1.0),  # two cores were busy already
        (1.0, 0, 1, 1.0),
    ],
)
def test_gain_is_what_the_shared_computing_saves(cpu_s: float, items: int, workers: int, gain: float) -> None:
    assert processes_gain(round(cpu_s * S), S, items, workers) == pytest.approx(gain)


def test_gain_is_rounded_down_and_a_small_one_is_not_advised() -> None:
    assert advise_processes(1.99, 2).endswith('executor="processes", up to 1.9 times as fast on 2 cores')
    assert advise_processes(1.1, 2) == "do less per item"
