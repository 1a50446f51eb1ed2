"""The engine's smaller parts: sources, admission, isolation, the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from flowrt._util.clock import clock_of
from flowrt.engine.admission import Admission
from flowrt.engine.input_isolation import isolate
from flowrt.engine.source import END, check_inputs, make_source
from tests.conftest import virtual_loop

Run = Callable[[Any], Any]


@pytest.mark.parametrize("inputs", ["text", b"bytes", bytearray(b"x"), {"a": 1}, None, 5, object()])
def test_inputs_that_are_no_collection_of_items_are_refused(inputs: Any) -> None:
    with pytest.raises(TypeError, match="inputs must be an iterable"):
        check_inputs(inputs)


def test_a_source_gives_each_input_and_then_its_end_for_good() -> None:
    source = make_source([1, None, 0])
    assert source.expected == 3
    assert [source.pull() for _ in range(5)] == [1, None, 0, END, END]


def test_an_async_source_serves_its_waiters_in_order(run_virtual: Run) -> None:
    async def slow() -> AsyncIterator[int]:
        for i in range(5):
            await asyncio.sleep(1)
            yield i

    async def main() -> None:
        source = make_source(slow())
        assert source.expected is None
        pulled = await asyncio.gather(*(source.apull() for _ in range(7)))
        assert pulled == [0, 1, 2, 3, 4, END, END]

    run_virtual(main())


def test_admission_gives_places_in_the_order_of_asking(run_virtual: Run) -> None:
    async def main() -> None:
        admission = Admission(2)
        entered: list[int] = []

        async def enter(i: int) -> None:
            if admission.free or await admission.wait():
                admission.free -= 1
                entered.append(i)

        tasks = [asyncio.create_task(enter(i)) for i in range(6)]
        await asyncio.sleep(0.1)
        assert entered == [0, 1]
        for _ in range(2):
            admission.release()
        await asyncio.sleep(0.1)
        assert entered == [0, 1, 2, 3]
        assert repr(admission) == "<Admission: 0 free, 2 waiting>"
        tasks[4].cancel()
        admission.release()
        await asyncio.sleep(0.1)
        assert entered == [0, 1, 2, 3, 5], "a place given to one who was cancelled is not lost"
        admission.close()
        assert not await admission.wait()
        admission.release()
        assert admission.free == 0

    run_virtual(main())


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


def containers(value: Any) -> list[Any]:
    found = [value] if isinstance(value, (list, dict, set)) else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [*found, *(c for item in inner for c in containers(item))]


@given(plain)
def test_a_copy_is_equal_and_shares_no_container(value: Any) -> None:
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


def test_cyclic_and_endlessly_deep_inputs_pass() -> None:
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


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_real_loops_are_timed_by_the_performance_counter(factory: Any) -> None:
    loop = factory()
    assert clock_of(loop) is time.perf_counter_ns
    loop.close()


def test_a_virtual_loop_is_timed_by_itself() -> None:
    loop = virtual_loop()
    clock = clock_of(loop)
    before = clock()
    loop.run_until_complete(asyncio.sleep(86_400))
    assert (clock() - before) / 1e9 == pytest.approx(86_400)
    assert before > 0
    loop.close()
