"""BatchResults: views of the results, one exception for all failures, repr and notebook display."""

from __future__ import annotations

import asyncio
import copy
import pickle  # errors cross process boundaries
from collections.abc import Callable
from html import escape
from typing import Any, Never, get_args

import pytest

import flowrt
from flowrt import BatchFailedError, BatchProcessor, BatchResult, BatchResults, ItemFailedError, NodeResult

Run = Callable[[Any], Any]


async def odd_only(x: int) -> Any:
    if x == 0:
        raise ValueError("zero")
    if x == 2:
        return NodeResult(False, output="partial", error="two is even")
    if x == 4:
        await asyncio.sleep(3600)
    return x or None


def batch_of(*inputs: int) -> Any:
    return BatchProcessor(odd_only, item_timeout=1).batch(inputs)


def test_outputs_are_aligned_with_none_for_failures(run_virtual: Run) -> None:
    assert run_virtual(batch_of(1, 0, 3, 2, 4)).outputs == [1, None, 3, None, None]


def test_raise_for_failures_returns_the_results_of_a_full_success(run_virtual: Run) -> None:
    results = run_virtual(batch_of(1, 3))
    assert results.raise_for_failures() is results


@pytest.mark.parametrize("generic", [BatchResult, BatchResults])
def test_types_of_results_may_leave_out_that_of_a_failure(generic: Any) -> None:
    assert get_args(generic[int, str]) == (int, str)
    assert get_args(generic[int, str, Never]) == (int, str, Never)


def test_raise_for_failures_groups_every_failure(run_virtual: Run) -> None:
    results = run_virtual(batch_of(0, 1, 2, 4, 0))
    with pytest.raises(BatchFailedError) as raised:
        results.raise_for_failures()
    error = raised.value
    assert isinstance(error, flowrt.FlowrtError)
    assert error.message == (
        "4 of 5 items failed (2 ValueError, 1 ItemFailedError, 1 TimeoutError); the first is item 0: zero"
    )
    assert [result.index for result in error.failed] == [0, 2, 3, 4]
    assert error.exceptions[0] is results[0].exception
    assert isinstance(error.exceptions[1], ItemFailedError)
    assert error.exceptions[1].result is results[2]


def test_except_star_picks_failures_by_type(run_virtual: Run) -> None:
    results = run_virtual(batch_of(0, 2))
    caught: list[Any] = []
    try:
        results.raise_for_failures()
    except* ValueError as group:
        caught += group.exceptions
    except* ItemFailedError as group:
        caught += group.exceptions
    assert [type(error) for error in caught] == [ValueError, ItemFailedError]


def test_cancelled_items_are_failures_too() -> None:
    cut = BatchResult(7, None, False, error="cancelled", status="cancelled", exception=asyncio.CancelledError())
    with pytest.raises(BatchFailedError) as raised:
        BatchResults([cut]).raise_for_failures()
    assert isinstance(raised.value.exceptions[0], ItemFailedError)


def test_batch_failed_error_survives_pickling_and_copying(run_virtual: Run) -> None:
    with pytest.raises(BatchFailedError) as raised:
        run_virtual(batch_of(0, 1)).raise_for_failures()
    for twin in (pickle.loads(pickle.dumps(raised.value)), copy.copy(raised.value)):
        assert (twin.message, twin.total, len(twin.failed)) == (raised.value.message, 2, 1)


def test_repr_is_one_short_line(run_virtual: Run) -> None:
    results = run_virtual(batch_of(*[1] * 500, 0, 4))
    assert repr(results) == "<BatchResults 'odd_only': 500 ok, 1 failed, 1 timed_out, 1.000 s>"
    assert repr(BatchResults()) == "<BatchResults 'batch': no items, 0.000 s>"


def test_notebook_shows_totals_verdict_and_first_rows(run_virtual: Run) -> None:
    page = run_virtual(batch_of(*[1] * 500))._repr_html_()
    assert "500 ok" in page
    assert page.count("<tr>") == 1 + 10
    assert "and 490 more" in page
    assert len(page) < 5_000
    results = run_virtual(batch_of(4, 4))
    assert results.report.explanation
    assert escape(results.report.explanation) in results._repr_html_()


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_notebook_escapes_and_cuts_every_text() -> None:
    rows = [
        BatchResult(0, "<script>alert(1)</script>", False, error="<img onerror=x>" * 100, error_type="E"),
        BatchResult(1, Hostile(), True, output="\udc80" * 5_000),
    ]
    page = BatchResults(rows, name="<b>")._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert "repr raised RuntimeError" in page
    assert len(page) < 3_000
    page.encode()
