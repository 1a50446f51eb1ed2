"""What the same work takes one item after another: measured on a sample, estimated for all."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any, Final

from flowrt.nodes.base import BaseNode, NodeContext, WorkflowContext

__all__ = ["SequentialEstimate", "estimate", "places_to_sample", "run_sequentially"]

Invoke = Callable[[NodeContext, WorkflowContext], Awaitable[Any]]

_TWO_SIDED_95: Final = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class SequentialEstimate:
    """How long all items would take one after another.

    Args:
        size: How many were measured.
        sample_s: What was measured: the mean time of a sampled item, in seconds.
        sample_margin_s: Half the width of the 95 % interval around it, in seconds; infinite for a sample of one
            from several.
        item_s: The estimate for the mean time of any item, in seconds.
        margin_s: As above, for the estimate.
        items: How many there are in all.
    """

    size: int
    sample_s: float
    sample_margin_s: float
    item_s: float
    margin_s: float
    items: int

    @property
    def total_s(self) -> float:
        """The estimated mean times the number of items, in seconds."""
        return self.item_s * self.items

    def speedup(self, wall_s: float) -> tuple[float, float, float]:
        """How many times as long it would take: the estimate, and its 95 % interval's lower and upper end.

        Args:
            wall_s: What the batch took, in seconds.
        """
        low_s, high_s = max(0.0, self.item_s - self.margin_s), self.item_s + self.margin_s
        return self.total_s / wall_s, low_s * self.items / wall_s, high_s * self.items / wall_s


def places_to_sample(items: int, size: int) -> list[int]:
    """Places at even distances, from all over the input.

    Args:
        items: How many items there are.
        size: How many of them to take, at most.
    """
    size = min(size, items)
    return [(2 * place + 1) * items // (2 * size) for place in range(size)]


async def run_sequentially(
    node: BaseNode, items: Sequence[Any], item_timeout_s: float | None, invoke: Invoke | None = None
) -> list[float]:
    """Run a node over items in a plain loop, with nothing of a batch around it.

    Args:
        node: What to run.
        items: What to run it on.
        item_timeout_s: Time limit of one item, in seconds, as in the batch; None for none.
        invoke: What runs an attempt; the node's own `execute` by default.

    Returns:
        What each took, in seconds, whether it failed or not.
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


def estimate(
    alone: Mapping[int, float], together: Mapping[int, float], mean_s: float, items: int
) -> SequentialEstimate:
    """Estimate the sequential time of all items from a sample of them and from what each took in the batch.

    One item in a hundred takes forty times as long as the others, so the plain mean of a small sample says more about
    how many of those it caught than about the work. This is the survey's difference estimate: what every item took in
    the batch, less what being in the batch added to the sampled ones. It is no plain measurement, so the sample's own
    mean is given beside it. The interval is of that addition; where a batch slows down only its rare stragglers, which
    a sample may miss, it is too narrow.

    Args:
        alone: What sampled items took one after another, in seconds, by their place in the input.
        together: What those items took in the batch, in seconds.
        mean_s: What an item of the batch took on average, in seconds.
        items: How many items there were.

    Raises:
        ValueError: Nothing was sampled.
    """
    if not alone:
        raise ValueError("an estimate needs at least one sampled item")
    size = len(alone)
    added = [together[place] - seconds for place, seconds in alone.items()]
    alone_s, added_s = fmean(alone.values()), fmean(added)
    return SequentialEstimate(
        size,
        alone_s,
        _margin([seconds - alone_s for seconds in alone.values()], items),
        mean_s - added_s,
        _margin([more - added_s for more in added], items),
        items,
    )


def _margin(residuals: Sequence[float], items: int) -> float:
    """Half the width of a mean's 95 % interval; a sample of everything leaves no doubt."""
    size = len(residuals)
    if size >= items:
        return 0.0
    if size < 2:
        return math.inf
    variance = sum(residual**2 for residual in residuals) / (size - 1)
    return _students_t(size - 1) * math.sqrt(variance / size * (1 - size / items))


def _students_t(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t, by its expansion around the normal's; exact to 1 % from 4 degrees."""
    z = _TWO_SIDED_95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
