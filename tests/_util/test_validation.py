"""Checks of settings, and their messages."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flowrt._util.validation import (
    check_concurrency,
    check_count,
    check_duration,
    check_number,
    check_policy,
    seconds_to_ns,
)


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, True, "1", None, 1j])
def test_number_must_be_finite_and_not_negative(wrong: Any) -> None:
    with pytest.raises(ValueError, match="share must be a number of at least 0 and at most 1, not "):
        check_number("share", wrong, most=1)


def test_number_is_checked_against_both_ends_of_its_range() -> None:
    assert check_number("factor", 1, least=1) == 1
    with pytest.raises(ValueError, match=r"factor must be a number of seconds above 1, not 1"):
        check_number("factor", 1, least=1, above=True, unit="of seconds")
    with pytest.raises(ValueError, match=r"not 1\.5"):
        check_number("share", 1.5, most=1)


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "3", None])
def test_count_must_be_a_whole_number_from_one(wrong: Any) -> None:
    with pytest.raises(ValueError, match="waiting must be an integer of at least 1, not "):
        check_count("waiting", wrong)
    with pytest.raises(ValueError, match="max_concurrency must be an integer of at least 1, not "):
        check_concurrency(wrong)


def test_count_may_start_at_zero() -> None:
    assert check_count("budget_minimum", 0, least=0) == 0


@pytest.mark.parametrize("wrong", [0, -1.0, math.inf, math.nan, True, "3"])
def test_duration_must_be_positive(wrong: Any) -> None:
    with pytest.raises(ValueError, match="item_timeout must be a positive number of seconds, or None for no limit"):
        check_duration("item_timeout", wrong)


@pytest.mark.parametrize(
    ("wrong", "shown"), [(10**400, r"10{99}…"), (10**5000, "an integer of about 5,000 digits")], ids=["400", "5000"]
)
def test_number_beyond_all_floats_is_refused_and_shown_in_short(wrong: int, shown: str) -> None:
    with pytest.raises(ValueError, match=f"item_timeout must be a positive number .* not {shown}"):
        check_duration("item_timeout", wrong)
    with pytest.raises(ValueError, match=f"rate must be a number of at least 0, not {shown}"):
        check_number("rate", wrong)


def test_long_durations_become_the_longest_that_timers_take() -> None:
    assert seconds_to_ns(1e300) == seconds_to_ns(10**300) == seconds_to_ns(1e15) == pytest.approx(10**24)
    assert seconds_to_ns(1.5) == 1_500_000_000


def test_duration_may_be_none() -> None:
    assert check_duration("item_timeout", None) is None
    assert check_duration("item_timeout", 3) == 3.0


def test_policy_must_be_of_its_class() -> None:
    assert check_policy("retry", None, dict) is None
    with pytest.raises(TypeError, match=r"retry must be a dict\(\.\.\.\) or None, not 3"):
        check_policy("retry", 3, dict)
