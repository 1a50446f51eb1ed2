"""Shared memory of a worker, which survives a crash: the running item, and the outcomes that are not sent."""

from __future__ import annotations

import io
import mmap
import pickle
import struct
from typing import Any, Final

__all__ = ["MEMORY_BYTES", "OutcomeMemory", "read_outcomes"]

_HEAD_BYTES: Final = 64
MEMORY_BYTES: Final = _HEAD_BYTES + 65_536

Outcome = tuple[int, int, int, int, Any]
"""Number, status, service time, time in the inbox (both in nanoseconds) and value."""


class OutcomeMemory:
    """Shared memory that a worker writes and its driver reads after the worker has ended.

    Args:
        descriptor: A file of `MEMORY_BYTES`.

    Attributes:
        running: The number of the plain-function item that runs is its first element, 0 for none; the second is the
            number of bytes of outcomes, the third how much of its standard error was sent, in bytes, if it is a file.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, MEMORY_BYTES)
        self._bytes = memoryview(self._map)
        self.running = self._bytes[:_HEAD_BYTES].cast("Q")

    def add(self, outcome: Outcome) -> bool:
        """Store an outcome until `clear`; returns False if there is no space."""
        try:
            data = pickle.dumps(outcome, 5)
        except Exception:  # its message reports the fault
            return False
        start = _HEAD_BYTES + self.running[1]
        end = start + len(data)
        if end > MEMORY_BYTES:
            return False
        self._bytes[start:end] = data
        self.running[1] = end - _HEAD_BYTES  # last, so that all counted bytes are complete
        return True

    def clear(self) -> None:
        """Remove the outcomes, which were sent."""
        self.running[1] = 0

    def read(self) -> list[Outcome]:
        """Return the outcomes that can be loaded in this process; the others are run again."""
        return read_outcomes(bytes(self._bytes))[1]

    def close(self) -> None:
        """Release the memory."""
        self.running.release()
        self._bytes.release()
        self._map.close()


def read_outcomes(data: bytes) -> tuple[int, list[Outcome]]:
    """Read a copy of a worker's memory.

    Returns:
        The number of the plain-function item that ran, 0 for none, and the outcomes that can be loaded here.
    """
    running, size = struct.unpack_from("QQ", data)
    stream = io.BytesIO(data[_HEAD_BYTES : _HEAD_BYTES + size])
    outcomes: list[Outcome] = []
    try:
        while True:
            outcomes.append(pickle.load(stream))  # noqa: S301  # from the driver's own worker
    except Exception:  # the end, in most cases
        return running, outcomes
