"""Input isolation: each attempt gets its own copy of the input."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt import BatchProcessor, FunctionNode
from flowrt.engine.input_isolation import isolate
from tests.conftest import Run

LEVELS = 100  # one copy per path would be 2**100 copies

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


def containers(value: Any) -> list[Any]:
    found = [value] if isinstance(value, (list, dict, set)) else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [*found, *(c for item in inner for c in containers(item))]


@given(plain)
def test_copy_is_equal_and_shares_no_container(value: Any) -> None:
    copied = isolate(value)
    assert copied == value
    assert not {id(c) for c in containers(value)} & {id(c) for c in containers(copied)}


def test_sets_are_copied_and_other_objects_shared() -> None:
    thing = object()
    value = {"set": {1, 2}, "thing": thing, "nested": [{"thing": thing}]}
    copied = isolate(value)
    assert copied["set"] == {1, 2}
    assert copied["set"] is not value["set"]
    assert copied["thing"] is thing
    assert copied["nested"][0]["thing"] is thing


@pytest.mark.parametrize(
    "pair",
    [
        lambda part: [part, part],
        lambda part: (part, part),
        lambda part: {"left": part, "right": part},
        lambda part: {"pair": [part, (part,)]},
    ],
)
def test_shared_parts_are_copied_once(pair: Any) -> None:
    value: Any = [0]
    for _ in range(LEVELS):
        value = pair(value)
    copied = isolate(value)  # copied once per path, it would never end
    assert copied is not value
    assert type(copied) is type(value)


@pytest.mark.parametrize("part", [[1], [], {"a": 1}, {"a": [1]}, {1, 2}, ([1],)])
def test_shared_part_is_shared_in_the_copy(part: Any) -> None:
    copied = isolate({"first": part, "rest": [part]})
    assert copied["first"] is copied["rest"][0]
    assert copied["first"] is not part
    assert copied["first"] == part


def test_item_with_shared_parts_runs(run: Run) -> None:
    value: Any = [0]
    for _ in range(LEVELS):
        value = [value, value]
    (result,) = run(BatchProcessor(FunctionNode(_length, "length"), 1).batch([value]))
    assert result.output == 2


async def _length(data: Any) -> int:
    return len(data)


def test_input_that_contains_itself_is_copied_and_other_objects_shared() -> None:
    lock = threading.Lock()  # cannot be copied
    inner: dict[str, Any] = {"lock": lock, "numbers": {1}}
    value: list[Any] = [inner, (inner,), lock]
    inner["all"] = value
    copied = isolate(value)
    assert copied is not value
    assert copied[0] is not inner
    assert copied[0]["all"] is copied
    assert copied[1][0] is copied[0]
    assert copied[0]["numbers"] is not inner["numbers"]
    assert copied[0]["lock"] is copied[2] is lock


def test_tuple_that_contains_itself_is_copied_once() -> None:
    inner: list[Any] = []
    value = (inner, inner)
    inner.append(value)
    copied = isolate(value)
    assert copied[0] is copied[1] is not inner
    assert copied[0][0] is copied


@pytest.mark.parametrize("wrap", [lambda part: [part], lambda part: {"a": part}, lambda part: ([part],)])
def test_deep_input_is_copied_at_any_depth(wrap: Any) -> None:
    bottom: list[int] = [1]
    value: Any = bottom
    for _ in range(5_000):
        value = wrap(value)
    copied = isolate(value)
    while copied is not bottom and copied != [1]:
        copied = copied["a"] if isinstance(copied, dict) else copied[0]
    assert copied is not bottom
