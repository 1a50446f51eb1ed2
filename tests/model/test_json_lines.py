"""A result as one line of JSON, whatever the node put into it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import OrderedDict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt.model import BatchRecord, BatchResult, make_record
from flowrt.model.json_lines import encode_result


class Colour(Enum):
    RED = "red"
    NUMBERED = 1


class Level(IntEnum):
    HIGH = 3


@dataclasses.dataclass(slots=True)
class Place:
    name: str
    at: tuple[float, float]
    tags: set[str]


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Model:
    def model_dump(self, mode: str) -> dict[str, Any]:
        return {"mode": mode, "when": date(2024, 1, 2)}


Point = namedtuple("Point", "x y")


def encoded(output: Any) -> Any:
    line = encode_result(BatchResult(7, None, success=True, output=output, attempts=1, execution_time=0.5))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    return json.loads(line, parse_constant=pytest.fail)["output"]


def test_a_line_has_the_eight_fields_in_their_order() -> None:
    failed = BatchResult(3, "in", success=False, error="no", status="failed", error_type="ValueError", attempts=2)
    assert list(json.loads(encode_result(failed)).items()) == [
        ("index", 3),
        ("success", False),
        ("status", "failed"),
        ("output", None),
        ("error", "no"),
        ("error_type", "ValueError"),
        ("attempts", 2),
        ("execution_time", 0.0),
    ]


@pytest.mark.parametrize("error", [None, "a warning"])
@pytest.mark.parametrize("output", [None, "text", {"v": math.nan}])
def test_the_record_of_an_item_has_the_line_of_an_equal_result(output: Any, error: str | None) -> None:
    item = make_record(BatchRecord(name="batch", node_id="node", node_type="", limit=1), 3, "in", 1_000)
    item.status, item.output, item.error, item.attempts = "ok", output, error, 1
    item.started_ns, item.finished_ns = 1_000, 3_145
    line = encode_result(item)
    assert line == encode_result(item.replace())
    assert json.loads(line)["error"] == error


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (None, None),
        ({}, {}),
        (0, 0),
        ([], []),
        ("", ""),
        (math.nan, None),
        ([1.5, math.inf, {"a": -math.inf}], [1.5, None, {"a": None}]),
        (datetime(2024, 1, 2, 3, 4, tzinfo=UTC), "2024-01-02T03:04:00+00:00"),
        (date(2024, 1, 2), "2024-01-02"),
        (time(3, 4), "03:04:00"),
        (timedelta(seconds=90), "0:01:30"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("a/b"), "a/b"),
        (Colour.RED, "red"),
        (Colour.NUMBERED, "NUMBERED"),
        (Level.HIGH, 3),
        (Place("Oslo", (59.9, math.nan), {"b", "a"}), {"name": "Oslo", "at": [59.9, None], "tags": ["a", "b"]}),
        (Point(1, 2), [1, 2]),
        (frozenset({3, 1, 2}), [1, 2, 3]),
        (deque([1, 2]), [1, 2]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (b"\x00\xff", "AP8="),
        (bytearray(b"a"), "YQ=="),
        ({1: "a", None: "b", False: "c", 1.5: "d"}, {"1": "a", "null": "b", "false": "c", "1.5": "d"}),
        ({(1, 2): "a"}, {"(1, 2)": "a"}),
        ({Colour.RED: 1}, {"red": 1}),
        ("\ud800", "\ud800"),
        (Model(), {"mode": "json", "when": "2024-01-02"}),
        (int, "<class 'int'>"),
        (1 + 2j, "(1+2j)"),
        ([Hostile()], ["<Hostile whose repr raised RuntimeError>"]),
    ],
)
def test_every_value_has_one_documented_form(output: Any, expected: Any) -> None:
    assert encoded(output) == expected


def test_an_integer_beyond_the_digits_that_python_converts_is_hexadecimal() -> None:
    assert encoded([10**5000]) == [hex(10**5000)]


def test_list_that_holds_itself_is_named_in_its_place() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert encoded(loop) == [1, "<a list that holds itself>"]


def test_nesting_beyond_the_stack_still_gives_a_line() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert isinstance(encoded(deep), str)


def test_a_lone_surrogate_in_an_error_survives() -> None:
    line = encode_result(BatchResult(0, None, success=False, error="\udcff\n", status="failed"))
    assert json.loads(line)["error"] == "\udcff\n"


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.decimals(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers() | st.floats() | st.dates(), inner)
        | st.tuples(inner)
    ),
)


@given(_values)
def test_any_output_gives_one_line_that_strict_json_reads(output: Any) -> None:
    value = encoded(output)
    assert encoded(value) == value
