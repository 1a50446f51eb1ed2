"""History in bounded memory, and percentiles of histograms."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt.telemetry.live.history import History, Point, percentile


def point(at_s: float) -> Point:
    return Point(at_s, round(at_s * 10), 0, 1, 1, 0, (round(at_s * 10),), (at_s,))


@pytest.mark.parametrize("hours", [0.01, 1, 24, 24 * 30])
def test_history_covers_all_time_in_bounded_points(hours: float) -> None:
    history = History()
    steps = min(round(hours * 7200), 50_000)
    step_s = hours * 3600 / steps
    for i in range(steps + 1):
        history.add(point(i * step_s))
        assert len(history.points) <= 480
    times = [each.at_s for each in history.points]
    assert times[0] == 0
    assert times[-1] == pytest.approx(hours * 3600)
    assert times == sorted(times)
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) <= max(4 * hours * 3600 / len(times), 2 * step_s)


def test_extra_sample_replaces_the_latest_point() -> None:
    history = History()
    for at_s in (0.0, 0.5, 0.6, 1.1, 1.6):
        history.add(point(at_s))
    assert [each.at_s for each in history.points] == [0.0, 0.5, 1.1, 1.6]


@pytest.mark.parametrize("hours", [0.01, 24])
def test_window_starts_ten_seconds_ago_however_long_the_batch_runs(hours: float) -> None:
    history = History()
    assert history.window_start() is None
    last_s = hours * 3600
    for i in range(10):
        history.add(point(i * last_s / 40))
    for i in range(41):
        history.add(point(last_s - (40 - i) * 0.5))
    found = history.window_start()
    assert found is not None
    assert found.at_s == pytest.approx(last_s - 10)


def test_window_has_no_start_before_ten_seconds() -> None:
    history = History()
    for i in range(20):
        history.add(point(i * 0.5))
        assert history.window_start() is None


def test_percentile_is_in_the_bucket_of_its_value() -> None:
    bounds = (0.1, 0.5, 1.0)
    assert percentile([0, 0, 0, 0], bounds, 0.5) is None
    assert percentile([0, 10, 0, 0], bounds, 0.5) == pytest.approx(0.3)
    assert percentile([90, 9, 1, 0], bounds, 0.99) == pytest.approx(0.5)
    assert percentile([0, 0, 0, 3], bounds, 0.5) == 1.0  # values beyond the last bound are cut to it


@given(st.lists(st.floats(0.001, 0.99), min_size=1, max_size=200), st.floats(0, 1))
def test_percentile_is_right_within_a_bucket(values: list[float], q: float) -> None:
    bounds = tuple(i / 10 for i in range(1, 11))
    counts = [0] * 11
    for value in values:
        counts[next(i for i, bound in enumerate(bounds) if value <= bound)] += 1
    found = percentile(counts, bounds, q)
    assert found is not None
    below = sum(value <= found + 0.1 for value in values)
    assert below >= q * len(values) - 1e-9
