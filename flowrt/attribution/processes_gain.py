"""Gain of running a batch's computing in processes, from the CPU time that it took in one process."""

from __future__ import annotations

from typing import Final

__all__ = ["advise_processes", "processes_gain"]

_DRIVER_NS: Final = 10_000  # an item's transport costs the driver this much: `bench processes` measures it
_WORKER_NS: Final = 7_000  # and its worker this much
_WORTH: Final = 1.2  # a smaller gain is not worth the advice


def processes_gain(cpu_ns: int, wall_ns: int, items: int, workers: int) -> float:
    """Ratio of a batch's wall time to what it would be if worker processes shared its computing; an upper bound.

    What did not compute takes as long as before. The transport of an item is paid, so quick items gain nothing.
    Attempts that wait for something outside as well would need more workers than cores.

    Args:
        cpu_ns: CPU time of the computing: of the loop's thread while it computed, or of the attempts in threads.
        wall_ns: Wall time of the batch.
        items: Number of items in that time.
        workers: Processes that compute at once, at most one per core.
    """
    shared_ns = max((cpu_ns + items * _WORKER_NS) / workers, items * _DRIVER_NS)
    return wall_ns / max(1.0, max(0, wall_ns - cpu_ns) + shared_ns)


def advise_processes(gain: float, cores: int, setting: str = 'executor="processes"') -> str:
    """Give the advice for items that compute: processes with their gain where they gain, else less work per item.

    Args:
        gain: The upper bound from `processes_gain`.
        cores: Cores that it holds for.
        setting: How the reader sets the executor.
    """
    if gain < _WORTH:
        return "do less per item"
    return f"do less per item, or use {setting}, up to {int(10 * gain) / 10:g} times as fast on {cores} cores"
