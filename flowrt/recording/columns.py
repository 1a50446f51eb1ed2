"""Row buffer that a running batch fills: 32 bytes per attempt, and a note for each attempt off the fast path."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from flowrt.recording.error_groups import NO_CAUSE

__all__ = ["OUTCOMES", "PACK", "Note", "RowBuffer", "finished_ns"]

OUTCOMES: Final = ("ok", "failed", "timed_out", "cancelled", "resumed")

_STRUCT: Final = Struct("=qqqq")
PACK: Final = _STRUCT.pack


def finished_ns(packed: bytes) -> int:
    """End of a packed attempt, on the batch's clock."""
    at: int = _STRUCT.unpack(packed)[3]
    return at


class Note(NamedTuple):
    """Annotation of an attempt that is not an item's first and successful one.

    Attributes:
        row: Index of the attempt in the buffer.
        attempt: Number of the attempt, from 1; 0 if the item had none.
        outcome: Index in `OUTCOMES`.
        cause: Number of the error group, or `NO_CAUSE`.
        last: True for the item's last attempt.
        arrival_ns: Time from which the attempt could have started: the item was pulled, or its backoff ended.
        slot_ns: Time at which it had a slot.
        hedge: True if it ran beside the item's own attempt and held no slot.
    """

    row: int
    attempt: int
    outcome: int
    cause: int
    last: bool
    arrival_ns: int
    slot_ns: int
    hedge: bool


class RowBuffer:
    """Attempts of one row group, in the order in which they ended. Times are on the batch's clock.

    Attributes:
        packed: Per attempt, packed by `PACK`: the item's index, and the times at which it was pulled (and got its
            slot), the node was called (0 if it was not), and the attempt ended.
        notes: Notes of the attempts that need one.
    """

    __slots__ = ("notes", "packed")

    def __init__(self) -> None:
        self.packed: list[bytes] = []  # appending bytes is half the cost of appending to four arrays
        self.notes: list[Note] = []

    def __len__(self) -> int:
        return len(self.packed)

    def add(self, index: int, started_ns: int, finished_ns: int, attempt: int, outcome: str, cause: int = NO_CAUSE,
            *, last: bool, arrival_ns: int, slot_ns: int, hedge: bool = False) -> None:  # fmt: skip
        """Append an attempt with a note."""
        note = Note(len(self.packed), attempt, OUTCOMES.index(outcome), cause, last, arrival_ns, slot_ns, hedge)
        self.notes.append(note)
        self.packed.append(PACK(index, arrival_ns, started_ns, finished_ns))
