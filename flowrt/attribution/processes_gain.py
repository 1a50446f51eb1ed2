"""Estimated gain of worker processes for a batch, from the CPU time that the batch took in one process."""

from __future__ import annotations

from typing import Final

__all__ = ["advise_processes", "processes_gain"]

_DRIVER_NS: Final = 10_000  # cost of an item's transport in the driver; `bench processes` measures it
_WORKER_NS: Final = 7_000  # cost of an item's transport in the worker
_WORTH: Final = 1.2  # smallest gain for which processes are advised


def processes_gain(cpu_ns: int, wall_ns: int, items: int, workers: int) -> float:
    """Return an upper bound of a batch's wall time divided by its wall time with worker processes.

    Only the computing is divided among the processes; all other time stays. Each item also pays for its transport, so
    quick items gain nothing. Attempts that wait for something outside as well would need more workers than cores.

    Args:
        cpu_ns: CPU time of the computing: of the loop's thread while it computed, or of the attempts in threads.
        wall_ns: Wall time of the batch.
        items: Number of items in that time.
        workers: Processes that compute at once, at most one per core.
    """
    shared_ns = max((cpu_ns + items * _WORKER_NS) / workers, items * _DRIVER_NS)
    return wall_ns / max(1.0, max(0, wall_ns - cpu_ns) + shared_ns)


def advise_processes(gain: float, cores: int, setting: str = 'executor="processes"') -> str:
    """Return advice for items that compute: less work per item and, if the gain is worth it, processes.

    Args:
        gain: The upper bound from `processes_gain`.
        cores: Number of cores for which the gain was computed.
        setting: The executor's setting, as the reader would write it.
    """
    if gain < _WORTH:
        return "do less per item"
    return f"do less per item, or use {setting}, up to {int(10 * gain) / 10:g} times as fast on {cores} cores"
