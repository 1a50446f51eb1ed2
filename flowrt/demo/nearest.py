"""CPU-bound part of the demo: each airport's nearest among all, in one worker process and in several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flowrt.batch.processor import BatchProcessor
from flowrt.demo.airports import Airport, distance_km
from flowrt.errors import FlowrtError
from flowrt.executors.processes import ProcessesExecutor

__all__ = ["Nearest", "Speedup", "measure_speedup"]

_AT_ONCE = 64  # enough for the items that are sent ahead, of a millisecond or more each


class Nearest:
    """Plain function that finds an airport's nearest neighbour by the distance to every other one.

    Args:
        airports: All airports; each worker gets them once, with the node.
    """

    __name__ = "nearest"

    def __init__(self, airports: Sequence[Airport]) -> None:
        self._airports = tuple(airports)

    def __call__(self, place: int) -> tuple[str, str, float]:
        """Return the codes of the airport at `place` and of its nearest, and their distance in km."""
        here = self._airports[place]
        best, nearest = math.inf, ""
        for other in self._airports:
            if other is not here and (distance := distance_km(here, other)) < best:
                best, nearest = distance, other.iata
        return here.iata, nearest, round(best, 1)


@dataclass(frozen=True, slots=True)
class Speedup:
    """Result of the measurement.

    Args:
        workers: Number of processes.
        one_s: Time in one process, in seconds.
        several_s: Time in all of them, in seconds.
    """

    workers: int
    one_s: float
    several_s: float

    def __str__(self) -> str:
        ratio = self.one_s / self.several_s
        return f"{ratio:.2f}x with {self.workers} processes ({self.one_s:.2f} s in one, {self.several_s:.2f} s)"


async def measure_speedup(airports: Sequence[Airport], workers: int) -> Speedup:
    """Find each airport's nearest in one worker process, then in several, and compare the times.

    The processes are warm before the time is taken. Both runs must find the same.

    Args:
        airports: The airports.
        workers: Number of processes.

    Raises:
        FlowrtError: An item failed, or the runs differ.
    """
    node, places = Nearest(airports), range(len(airports))
    times, found = [], []
    for count in (1, workers):
        async with ProcessesExecutor(count) as executor:
            processor = BatchProcessor(node, _AT_ONCE, executor=executor, name="nearest")
            await processor.batch(places[: 2 * count])
            results = await processor.batch(places)
        times.append(results.report.wall_time)
        found.append(results.outputs)
    if found[0] != found[1] or len(found[0]) != len(places):
        raise FlowrtError("the search for the nearest airports failed in a worker process, or differed")
    return Speedup(workers, *times)
