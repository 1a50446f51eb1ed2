"""Pool of slots: the list of slots in use while they end in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flowrt import BatchProcessor, Instrument, ItemRecord
from flowrt.model import Slot

Run = Callable[[Any], Any]


class Places(Instrument):
    """Compares the list of slots with the places that its slots know."""

    def __init__(self) -> None:
        self.wrong = 0
        self.lengths: list[int] = []

    def item_finished(self, item: ItemRecord) -> None:
        slots = item.batch.slots
        self.lengths.append(len(slots))
        self.wrong += [slot.place for slot in slots] != list(range(len(slots))) or len(set(map(id, slots))) < len(slots)


def test_slots_leave_in_any_order_without_a_search(run_virtual: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = 0

    def equal(slot: Slot, other: object) -> bool:
        nonlocal searched
        searched += 1
        return slot is other

    monkeypatch.setattr(Slot, "__eq__", equal)

    async def node(item: int) -> int:
        await asyncio.sleep(1 + item * 37 % 101)
        return item

    places = Places()
    processor = BatchProcessor(node, 200, telemetry=False, instruments=[places])
    results = run_virtual(processor.batch(range(500)))
    assert [result.output for result in results] == list(range(500))
    assert (max(places.lengths), places.wrong, searched) == (200, 0, 0)


def test_slots_leave_after_others_were_abandoned(run_virtual: Run) -> None:
    async def node(item: int) -> int:
        for _ in range(2 if item % 7 == 3 else 0):  # it does not stop when it is cancelled
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)
        await asyncio.sleep(3 + item % 5)
        return item

    async def main() -> list[str]:
        results = await BatchProcessor(node, 20, item_timeout=10.0, telemetry=False).batch(range(60))
        await asyncio.sleep(2000)  # until the abandoned ones have ended, too
        return [result.status for result in results]

    ended = run_virtual(main())
    assert ended == ["timed_out" if item % 7 == 3 else "ok" for item in range(60)]
