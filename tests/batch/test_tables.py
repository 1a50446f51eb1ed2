"""Tables: results as pandas and Polars frames and as Arrow tables."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from flowrt import BatchResult, BatchResults, MissingExtraError

NAMES = ["index", "status", "input", "output", "error", "error_type", "attempts", "execution_time", "queue_time"]
RESULTS = BatchResults(
    [
        BatchResult(0, {"id": "a"}, True, {"score": 0.5}, attempts=1, execution_time=0.25, queue_time=0.5),
        BatchResult(1, {"id": "b"}, False, error="no", error_type="ValueError", attempts=2),
    ]
)


@pytest.mark.parts
def test_pandas_frame_has_a_row_per_item_and_keeps_the_objects() -> None:
    frame = RESULTS.to_pandas()
    assert list(frame.columns) == NAMES
    assert frame["output"][0] is RESULTS[0].output
    assert list(frame["status"]) == ["ok", "failed"]
    assert frame["attempts"].sum() == 3
    assert frame["execution_time"][0] == 0.25


def test_arrow_table_has_typed_columns_and_nested_values() -> None:
    table = RESULTS.to_arrow()
    assert table.column_names == NAMES
    assert table.to_pylist()[0]["output"] == {"score": 0.5}
    assert table.to_pylist()[1] == {
        "index": 1, "status": "failed", "input": {"id": "b"}, "output": None, "error": "no",
        "error_type": "ValueError", "attempts": 2, "execution_time": 0.0, "queue_time": 0.0,
    }  # fmt: skip


@pytest.mark.parts
def test_polars_frame_has_the_columns_of_the_arrow_table() -> None:
    frame = RESULTS.to_polars()
    assert frame.columns == NAMES
    assert frame["output"][0] == {"score": 0.5}


@pytest.mark.parts
@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, "a", None], ["1", '"a"', None]),
        ([{1, 2}, object], ["[1, 2]", "\"<class 'object'>\""]),
        ([10**30, datetime(2026, 1, 1, tzinfo=UTC)], ["1" + "0" * 30, '"2026-01-01T00:00:00+00:00"']),
    ],
)
def test_values_without_a_common_arrow_type_become_json(values: list[Any], texts: list[str | None]) -> None:
    results = BatchResults(BatchResult(index, value, True, value) for index, value in enumerate(values))
    for column in ("input", "output"):
        assert results.to_arrow()[column].to_pylist() == texts
    assert results.to_polars()["output"].to_list() == texts


@pytest.mark.parts
def test_empty_batch_has_the_same_columns() -> None:
    assert list(BatchResults().to_pandas().columns) == NAMES
    assert BatchResults().to_arrow().column_names == NAMES
    assert BatchResults().to_polars().columns == NAMES


@pytest.mark.parametrize(
    ("call", "package", "extra"),
    [("to_pandas", "pandas", "pandas"), ("to_polars", "polars", "polars"), ("to_arrow", "pyarrow", "parquet")],
)
def test_missing_package_names_its_extra(call: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"flowrt\[{extra}\]"):
        getattr(RESULTS, call)()
