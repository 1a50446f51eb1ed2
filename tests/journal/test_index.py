"""Table: behaves like a dictionary by index, in eight bytes per item."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrt.journal.index import Table

GAP = 100
_indices = st.integers(0, 40) | st.integers(GAP - 3, GAP + 40) | st.integers(0, 2**62)


@pytest.fixture(autouse=True)
def _a_small_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrt.journal.index._GAP", GAP)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_indices, st.integers(0, 2**60), st.sampled_from([1, 2, 3]))))
def test_table_holds_the_last_record_of_each_index(entries: list[tuple[int, int, int]]) -> None:
    table = Table()
    model: dict[int, tuple[int, str]] = {}
    for index, offset, code in entries:
        table.put(index, offset, code)
        model[index] = (offset, {1: "ok", 2: "failed", 3: "timed_out"}[code])
    assert list(table) == sorted(model)
    assert len(table) == len(model)
    assert {index: table.get(index) for index in table} == model
    assert table.last == max(model, default=-1)
    assert sum(table.counts().values()) == len(model)
    for absent in (*range(42), -1, 2**63):
        assert (absent in table) == (absent in model)
        assert table.get(absent) == model.get(absent)


def test_distant_index_allocates_no_gap() -> None:
    table = Table()
    table.put(10**15, 5, 1)
    assert len(table._near) == 0
    assert list(table) == [10**15]


def test_distant_index_is_found_after_the_gap_is_filled() -> None:
    table = Table()
    far = GAP + 5
    table.put(far, 7, 2)
    table.put(GAP - 1, 1, 1)
    table.put(far + 10, 9, 1)
    assert list(table) == [GAP - 1, far, far + 10]
    table.put(far, 8, 1)
    assert table.get(far) == (8, "ok")
    assert len(table) == 3


def test_distant_index_right_behind_the_others_is_the_last() -> None:
    table = Table()
    for index in (GAP + 5, 50, GAP + 4):
        table.put(index, 1, 1)
    assert len(table._near) == GAP + 5
    assert table.last == GAP + 5
    assert list(table) == [50, GAP + 4, GAP + 5]
