"""The speedup of one batch by a sample of its items that ran one after another before it."""

from __future__ import annotations

from collections.abc import Mapping

from flowrt.instrument import Instrument
from flowrt.records import BatchRecord, ItemRecord
from flowrt.sequential import estimate
from flowrt.speedup import speedup_by_sample

__all__ = ["SampledSpeedup"]


class SampledSpeedup(Instrument):
    """Finds one batch's speedup by a sequential sample that was taken before it.

    It must come after the built-in instruments, as its end is then told before theirs.

    Args:
        alone: What sampled items took one after another, in seconds, by their place in the input.
    """

    def __init__(self, alone: Mapping[int, float]) -> None:
        self._alone = alone
        self._together: dict[int, float] = {}
        self._service_s = 0.0
        self._items = 0

    def item_finished(self, item: ItemRecord) -> None:
        """Note what the item took in the batch."""
        if item.started_ns and item.attempts:
            took_s = (item.finished_ns - item.started_ns) / 1e9
            self._service_s += took_s
            self._items += 1
            if item.index in self._alone:
                self._together[item.index] = took_s

    def batch_ended(self, batch: BatchRecord) -> None:
        """Compare."""
        wall_ns = batch.finished_ns - batch.started_ns
        if self._together and wall_ns > 0:
            alone = {index: self._alone[index] for index in self._together}
            found = estimate(alone, self._together, self._service_s / self._items, self._items)
            batch.speedup = speedup_by_sample(self._service_s, wall_ns / 1e9, found)
