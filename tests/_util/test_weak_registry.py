"""What is under way can be looked through while it changes."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from flowrt._util.weak_registry import WeakRegistry
from flowrt.telemetry.metrics.store import MetricsStore


class Thing:
    """Something that begins and ends."""


def test_it_is_listed_from_its_beginning_to_its_end_oldest_first() -> None:
    under_way: WeakRegistry[Thing] = WeakRegistry()
    first, second = Thing(), Thing()
    under_way.add(first)
    under_way.add(second)
    assert list(under_way) == [first, second]
    under_way.discard(first)
    under_way.discard(first)
    assert list(under_way) == [second]


def test_what_never_ends_is_not_kept_alive() -> None:
    under_way: WeakRegistry[Thing] = WeakRegistry()
    thing = Thing()
    under_way.add(thing)
    seen = weakref.ref(thing)
    del thing
    assert seen() is None
    assert list(under_way) == []


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_hasty_threads")
@pytest.mark.parametrize("under_way", [MetricsStore().active, WeakRegistry()], ids=["metrics", "engine"])
def test_others_may_begin_and_end_meanwhile(under_way: Any) -> None:
    things = [Thing() for _ in range(200)]
    for thing in things:
        under_way.add(thing)
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            thing = Thing()
            under_way.add(thing)
            under_way.discard(thing)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2_000):
            assert len(list(under_way)) >= len(things)
    finally:
        over.set()
        thread.join()
