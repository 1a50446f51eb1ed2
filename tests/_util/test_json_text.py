"""JSON text: the fast encoder writes the same text as the standard library's."""

from __future__ import annotations

import json
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt._util import json_text
from flowrt._util.json_text import make_encoder, scan_once

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.booleans(), inner),
    max_leaves=12,
)


class Level(IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


@given(values)
def test_text_is_that_of_the_standard_library(value: Any) -> None:
    assert make_encoder(repr, allow_nan=True)(value) == json.dumps(value, default=repr)


@pytest.mark.parametrize("value", [Level.HIGH, Text("a"), True, 1.0, -0.0, 1e400, (1, 2)], ids=repr)
def test_subclasses_and_special_numbers_have_the_same_text(value: Any) -> None:
    assert make_encoder(repr, allow_nan=True)(value) == json.dumps(value)


def test_nan_is_refused_where_it_is_not_allowed() -> None:
    encode = make_encoder(repr, allow_nan=False)
    for value in (float("nan"), [float("inf")]):
        with pytest.raises(ValueError, match="not JSON compliant"):
            encode(value)


def test_value_that_holds_itself_ends_in_an_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        make_encoder(repr, allow_nan=True)(loop)


def test_python_without_the_c_encoder_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*_: Any) -> Any:
        raise TypeError("other arguments")

    for replacement in (None, changed):
        monkeypatch.setattr(json_text, "encoder", SimpleNamespace(c_make_encoder=replacement))
        assert make_encoder(repr, allow_nan=True)(["ä", 1.5, 1j]) == json.dumps(["ä", 1.5, "1j"])


def test_scan_returns_the_value_and_its_end() -> None:
    assert scan_once('x[1, "b"], 2', 1) == ([1, "b"], 9)
    with pytest.raises(StopIteration):
        scan_once("x", 0)
