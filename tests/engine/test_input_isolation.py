"""Input isolation: a node's own copy of its input."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowrt.engine.input_isolation import isolate

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


def test_cyclic_and_very_deep_inputs_pass() -> None:
    cyclic: list[Any] = [1]
    cyclic.append(cyclic)
    copied = isolate(cyclic)
    assert copied is not cyclic
    assert copied[1] is copied
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert isolate(deep) is deep
    while deep:  # taken apart by hand: letting go of it at once would overflow older interpreters' stacks
        deep = deep[0]
