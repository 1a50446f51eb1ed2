"""Speedup sample: items that run sequentially, and the estimate for all items with its margin."""

from __future__ import annotations

import asyncio
import math
import random
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest

from flowrt import NodeContext, NodeResult, WorkflowContext
from flowrt.attribution.speedup import SequentialEstimate
from flowrt.batch import speedup_sample as sequential
from flowrt.batch.speedup_sample import places_to_sample, run_sequentially
from flowrt.model.node import BaseNode
from tests.conftest import Run


def estimate(alone: dict[int, float], in_batch: list[float]) -> SequentialEstimate:
    """The estimate from the sequential times of some items and the times of all in the batch, in seconds."""
    together = {place: in_batch[place] for place in alone}
    return sequential.estimate(alone, together, fmean(in_batch), len(in_batch))


class Wait(BaseNode):
    """Node that sleeps for its input in seconds, and fails if the input is negative."""

    def __init__(self) -> None:
        super().__init__("wait")
        self.running = 0
        self.most = 0
        self.seen: list[Any] = []

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        self.running += 1
        self.most = max(self.most, self.running)
        self.seen.append(node_context.input_data)
        try:
            await asyncio.sleep(abs(node_context.input_data))
            if node_context.input_data < 0:
                raise ValueError("negative")
        finally:
            self.running -= 1
        return NodeResult(True)


def test_items_run_sequentially_and_failures_count_with_their_time(
    run_virtual: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Wait()

    async def main() -> list[float]:
        monkeypatch.setattr("flowrt.batch.speedup_sample.time.perf_counter", asyncio.get_running_loop().time)
        return await run_sequentially(node, [3, -1, 100, 0.5], 10.0)

    assert run_virtual(main()) == pytest.approx([3, 1, 10, 0.5])
    assert node.seen == [3, -1, 100, 0.5]
    assert node.most == 1


@pytest.mark.parametrize(("items", "size"), [(2000, 40), (40, 40), (41, 40), (3, 40), (1, 40), (1000, 1)])
def test_sampled_indices_are_spread_evenly_and_centred(items: int, size: int) -> None:
    places = places_to_sample(items, size)
    assert len(set(places)) == len(places) == min(items, size)
    assert all(0 <= place < items for place in places)
    steps = {after - before for before, after in pairwise(places)}
    assert not steps or max(steps) - min(steps) <= 1
    assert places[0] == pytest.approx(items - 1 - places[-1], abs=1)


def test_constant_overhead_per_item_is_estimated_exactly() -> None:
    in_batch = [0.05, 0.06, 0.04, 2.0, 0.05, 0.08]
    found = estimate({0: 0.04, 2: 0.03, 5: 0.07}, in_batch)  # each 10 ms less than it took in the batch
    assert found.total_s == pytest.approx(sum(in_batch) - 0.06)
    assert found.margin_s == pytest.approx(0, abs=1e-9)
    assert found.speedup(0.5) == pytest.approx((2 * (sum(in_batch) - 0.06),) * 3)
    assert (found.size, found.items) == (3, 6)


def test_interval_covers_the_true_mean_nineteen_times_in_twenty() -> None:
    chance = random.Random(5)  # noqa: S311  # nothing secret
    covered, ratios = 0, []
    for _ in range(400):
        slow = [chance.uniform(1, 2) if chance.random() < 0.01 else chance.uniform(0.02, 0.08) for _ in range(2000)]
        in_batch = [seconds + chance.expovariate(1000) for seconds in slow]
        places = chance.sample(range(2000), 40)
        found = estimate({place: slow[place] for place in places}, in_batch)
        covered += abs(found.item_s - sum(slow) / 2000) <= found.margin_s
        ratios.append(found.total_s / sum(slow))
    assert 0.88 <= covered / 400 <= 0.99
    assert sum(ratios) / 400 == pytest.approx(1, abs=0.02)


def test_margin_is_zero_for_all_items_and_infinite_for_one_of_many() -> None:
    everything = estimate({0: 1.0, 1: 2.5}, [1.0, 2.0])
    assert (everything.total_s, everything.margin_s) == (pytest.approx(3.5), 0)
    whole = estimate({0: 1.0}, [2.0])
    assert (whole.total_s, whole.margin_s, whole.sample_margin_s) == (1.0, 0, 0)
    one = estimate({0: 1.0}, [1.0, 2.0])
    assert (one.total_s, one.margin_s) == (pytest.approx(3.0), math.inf)
    assert one.speedup(1.0)[1:] == (0, math.inf)
    assert (one.sample_s, one.sample_margin_s) == (1.0, math.inf)


def test_margin_is_students_t_times_the_standard_error() -> None:
    in_batch = [1.0] * 1_000_000
    found = estimate({0: 0.9, 1: 1.0, 2: 1.1, 3: 0.9, 4: 1.1}, in_batch)
    assert found.item_s == pytest.approx(1.0)
    assert found.margin_s == pytest.approx(2.776 * 0.1 / math.sqrt(5), rel=0.01)  # t of 4 degrees; s = 0.1


def test_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sampled item"):
        estimate({}, [1.0])


def test_total_is_the_mean_times_the_number_of_items() -> None:
    assert SequentialEstimate(40, 0.05, 0.004, 0.06, 0.001, 2000).total_s == pytest.approx(120)


def test_mean_of_the_sample_is_kept_apart_from_the_estimate() -> None:
    alone = [0.04, 0.05, 0.06, 0.05, 0.05]  # no straggler among them
    found = estimate(dict(enumerate(alone)), [*alone, *[0.05] * 94, 2.0])
    assert found.sample_s == pytest.approx(0.05)
    assert found.sample_margin_s == pytest.approx(2.776 * math.sqrt(0.00005 / 5 * 0.95), rel=0.01)
    assert found.item_s == pytest.approx((0.05 * 99 + 2.0) / 100)


def test_proportional_slowdown_biases_the_estimate_by_stragglers_alone() -> None:
    in_batch = [0.05] * 99 + [2.0]
    alone = [seconds / 1.1 for seconds in in_batch]
    found = estimate({place: alone[place] for place in range(0, 98, 10)}, in_batch)
    assert found.total_s == pytest.approx(sum(alone), rel=0.03)
