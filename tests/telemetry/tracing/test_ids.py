"""Ids of item spans: drawn ahead, never twice, and in the form in which they are sent."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import pytest

from flowrt.telemetry.tracing.ids import SPAN_ID_KEY, draw, make_ids, numbers_of, stock


def test_drawn_ids_are_all_different_and_in_their_form() -> None:
    drawn = [stock.pop() if stock else draw() for _ in range(1_000)]
    numbers = [numbers_of(ids) for ids in drawn]
    assert len({trace_id for trace_id, _ in numbers}) == len({span_id for _, span_id in numbers}) == 1_000
    assert {(len(ids), ids[16:18]) for ids in drawn} == {(26, SPAN_ID_KEY)}
    assert [make_ids(*both) for both in numbers] == drawn


def _tell(there: Connection) -> None:
    there.send([stock.pop() if stock else draw() for _ in range(300)])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_other_ids_than_its_parent() -> None:
    draw()
    left = list(stock)
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_tell, args=(there,))
    child.start()
    assert here.poll(30), "the child hangs"
    theirs = here.recv()
    child.join()
    assert len(theirs) == 300
    assert set(left).isdisjoint(theirs)
