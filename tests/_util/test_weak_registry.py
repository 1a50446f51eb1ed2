"""Registry of active objects, read while it changes."""

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
    """Object that starts and ends."""


def test_active_objects_are_listed_oldest_first() -> None:
    active: WeakRegistry[Thing] = WeakRegistry()
    first, second = Thing(), Thing()
    active.add(first)
    active.add(second)
    assert list(active) == [first, second]
    active.discard(first)
    active.discard(first)
    assert list(active) == [second]


def test_registry_does_not_keep_objects_alive() -> None:
    active: WeakRegistry[Thing] = WeakRegistry()
    thing = Thing()
    active.add(thing)
    seen = weakref.ref(thing)
    del thing
    assert seen() is None
    assert list(active) == []


def test_objects_that_are_gone_take_no_growing_memory() -> None:
    active: WeakRegistry[Thing] = WeakRegistry()
    kept = [Thing() for _ in range(100)]
    for thing in kept:
        active.add(thing)
    for _ in range(10_000):
        active.add(Thing())
    assert list(active) == kept
    assert len(active._refs) <= 2 * len(kept) + 1


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_hasty_threads")
@pytest.mark.parametrize("active", [MetricsStore().active, WeakRegistry()], ids=["metrics", "engine"])
def test_other_threads_may_change_it_during_iteration(active: Any) -> None:
    things = [Thing() for _ in range(200)]
    for thing in things:
        active.add(thing)
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            thing = Thing()
            active.add(thing)
            active.discard(thing)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2_000):
            assert len(list(active)) >= len(things)
    finally:
        over.set()
        thread.join()
