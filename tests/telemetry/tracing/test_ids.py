"""Ids of item spans: unique, drawn ahead, and encoded for OTLP."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from multiprocessing.connection import Connection

import pytest

from flowrt.telemetry.tracing import ids as ids_module
from flowrt.telemetry.tracing.ids import SPAN_ID_KEY, id_pool, ids_to_ints, make_ids, new_ids, refill_ids


def test_drawn_ids_are_unique_and_encoded() -> None:
    drawn = [id_pool.pop() if id_pool else refill_ids() for _ in range(1_000)]
    numbers = [ids_to_ints(ids) for ids in drawn]
    assert len({trace_id for trace_id, _ in numbers}) == len({span_id for _, span_id in numbers}) == 1_000
    assert {(len(ids), ids[16:18]) for ids in drawn} == {(26, SPAN_ID_KEY)}
    assert [make_ids(*both) for both in numbers] == drawn


def test_ids_are_drawn_while_other_threads_take_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Contended(list[bytes]):
        def extend(self, drawn: Iterable[bytes]) -> None:
            super().extend(drawn)
            self.clear()  # as other threads do

    monkeypatch.setattr(ids_module, "id_pool", Contended())
    assert len({new_ids(b"", None) for _ in range(3)}) == 3


def _tell(there: Connection) -> None:
    there.send([id_pool.pop() if id_pool else refill_ids() for _ in range(300)])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_draws_different_ids() -> None:
    refill_ids()
    left = list(id_pool)
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_tell, args=(there,))
    child.start()
    assert here.poll(30), "the child hangs"
    theirs = here.recv()
    child.join()
    assert len(theirs) == 300
    assert set(left).isdisjoint(theirs)
