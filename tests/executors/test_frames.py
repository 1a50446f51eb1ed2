"""Messages between driver and worker: cut at every byte, large buffers out of band."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from flowrt.executors.frames import Frame, FrameReader, Kind, make_frame, on_the_wire
from flowrt.executors.outcome_memory import MEMORY_BYTES, OutcomeMemory
from flowrt.executors.pickling import OUT_OF_BAND_BYTES, PicklingError, dumps, dumps_alone
from flowrt.executors.send_ahead import SendAhead
from tests.executors import worker_nodes as nodes


def wire(parts: Any) -> bytes:
    return b"".join(bytes(part) for part in on_the_wire(parts))


def test_messages_survive_a_cut_at_every_byte() -> None:
    messages = [make_frame((Kind.CANCEL, (1, 2))), make_frame((Kind.ITEMS, 1, 1, [0], [1], None), [{"a": 1}])]
    data = b"".join(map(wire, messages))
    for cut in range(len(data) + 1):
        reader = FrameReader()
        read = [*reader.feed(data[:cut]), *reader.feed(data[cut:])]
        assert [Frame.of(parts).envelope for parts in read] == [
            (Kind.CANCEL, (1, 2)),
            (Kind.ITEMS, 1, 1, [0], [1], None),
        ]
        assert Frame.of(read[1]).load() == [{"a": 1}]


def test_stream_that_ends_within_a_message_yields_only_complete_ones() -> None:
    data = wire(make_frame((Kind.STOP,))) + wire(make_frame((Kind.RECALL, 3)))
    first = len(wire(make_frame((Kind.STOP,))))
    for end in range(first, len(data)):
        assert [Frame.of(parts).envelope for parts in FrameReader().feed(data[:end])] == [(Kind.STOP,)]


def test_large_buffers_travel_out_of_band_and_arrive_writable() -> None:
    large = pickle.PickleBuffer(bytearray(b"x" * OUT_OF_BAND_BYTES))
    small = pickle.PickleBuffer(bytearray(b"y" * 100))
    parts = make_frame((Kind.STOP,), [large, small])
    assert len(parts) == 3
    assert len(parts[1]) < 1_000
    (read,) = FrameReader().feed(wire(parts))
    loaded = Frame.of(read).load()
    assert bytes(loaded[0]) == bytes(large.raw())
    loaded[0][0] = 0


def test_unpicklable_value_is_named_down_to_its_attribute() -> None:
    with pytest.raises(PicklingError, match=r"the input\['holder'\]\.lock is a lock"):
        dumps_alone({"holder": nodes.Holder()}, "the input")
    lock = threading.Lock()
    with pytest.raises(PicklingError, match=r"its variable 'lock'"):
        dumps_alone(lambda: lock, "the node")


def test_lambdas_and_local_classes_are_pickled_by_value() -> None:
    class Local:
        value = 7

    assert pickle.loads(dumps(lambda x: x + 1))(1) == 2
    assert pickle.loads(dumps(Local())).value == 7


def test_window_holds_twenty_milliseconds_of_work() -> None:
    ahead = SendAhead()
    assert ahead.window == 2
    for _ in range(30):
        ahead.record_service(10, 10 * 100_000)
    assert ahead.window == 200
    for _ in range(30):
        ahead.record_service(1, 1_000_000_000)
    assert ahead.window == 2
    for _ in range(60):
        ahead.record_service(100, 100)
    assert ahead.window == 1_024
    for _ in range(30):
        ahead.record_sent(1, 1_000_000)
    assert ahead.window <= 4


def test_outcomes_in_shared_memory_survive_until_they_were_sent() -> None:
    import os

    descriptor = os.memfd_create("test", 0)
    os.ftruncate(descriptor, MEMORY_BYTES)
    worker, driver = OutcomeMemory(descriptor), OutcomeMemory(descriptor)
    outcomes = [(number, 0, 10, 20, {"value": number}) for number in range(1, 5)]
    assert all(map(worker.add, outcomes))
    worker.running[0] = 5
    assert driver.read() == outcomes
    assert driver.running[0] == 5
    assert not worker.add((6, 0, 1, 1, "x" * MEMORY_BYTES))
    assert driver.read() == outcomes
    worker.clear()
    assert driver.read() == []
    worker.close()
    driver.close()
    os.close(descriptor)
