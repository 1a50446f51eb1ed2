"""Measured speedup of a batch, from a sample of its items that run one after another before the batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from flowrt.attribution.speedup import estimate, speedup_by_sample
from flowrt.engine.instrument import Instrument, Phase
from flowrt.model import BatchRecord, ItemRecord
from flowrt.model.node import BaseNode, NodeContext, WorkflowContext

__all__ = ["SampledSpeedup", "places_to_sample", "run_sequentially"]

Invoke = Callable[[NodeContext, WorkflowContext], Awaitable[Any]]


def places_to_sample(items: int, size: int) -> list[int]:
    """Return evenly spaced positions in the input.

    Args:
        items: Number of items.
        size: Largest number of positions.
    """
    size = min(size, items)
    return [(2 * place + 1) * items // (2 * size) for place in range(size)]


async def run_sequentially(
    node: BaseNode, items: Sequence[Any], item_timeout_s: float | None, invoke: Invoke | None = None
) -> list[float]:
    """Run a node over items in a plain loop, without a batch.

    Args:
        node: The node.
        items: The items.
        item_timeout_s: Time limit of one item, in seconds, as in the batch; None for none.
        invoke: Runs one attempt; the node's own `execute` by default.

    Returns:
        The time of each item in seconds, whether it failed or not.
    """
    workflow = WorkflowContext()
    times: list[float] = []
    for index, item in enumerate(items):
        started = time.perf_counter()
        with suppress(Exception):  # failures take their time, too
            async with asyncio.timeout(item_timeout_s):
                await (invoke or node.execute)(NodeContext(node.node_id, node.node_type, item, index=index), workflow)
        times.append(time.perf_counter() - started)
    return times


class SampledSpeedup(Instrument):
    """Computes the speedup of one batch from a sequential sample that ran before it.

    Args:
        alone: Times of the sampled items when they ran one after another, in seconds, by their place in the input.
    """

    phase = Phase.SAMPLE

    def __init__(self, alone: Mapping[int, float]) -> None:
        self._alone = alone
        self._together: dict[int, float] = {}
        self._service_s = 0.0
        self._items = 0

    def item_finished(self, item: ItemRecord) -> None:
        """Record the item's time in the batch."""
        if item.started_ns and item.attempts:
            took_s = (item.finished_ns - item.started_ns) / 1e9
            self._service_s += took_s
            self._items += 1
            if item.index in self._alone:
                self._together[item.index] = took_s

    def inputs_cancelled(self, batch: BatchRecord) -> None:
        """Record nothing: inputs that were never started took no time."""

    def batch_ended(self, batch: BatchRecord) -> None:
        """Compare the times alone with the times in the batch."""
        wall_ns = batch.finished_ns - batch.started_ns
        if self._together and wall_ns > 0:
            alone = {index: self._alone[index] for index in self._together}
            found = estimate(alone, self._together, self._service_s / self._items, self._items)
            batch.speedup = speedup_by_sample(self._service_s, wall_ns / 1e9, found)
