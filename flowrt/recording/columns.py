"""The columns that fill up while a batch runs: 32 bytes for an attempt, and a note where it was not plain."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from flowrt.recording.error_groups import NO_CAUSE

__all__ = ["OUTCOMES", "PACK", "Note", "RowBuffer", "finished_ns"]

OUTCOMES: Final = ("ok", "failed", "timed_out", "cancelled", "resumed")

_STRUCT: Final = Struct("=qqqq")
PACK: Final = _STRUCT.pack


def finished_ns(packed: bytes) -> int:
    """When a packed attempt ended."""
    at: int = _STRUCT.unpack(packed)[3]
    return at


class Note(NamedTuple):
    """What sets an attempt apart from the usual: the item's first, that went well.

    Attributes:
        row: Its place in the buffer.
        attempt: Its number, 1 for the first; 0 where the item had none.
        outcome: Its place in `OUTCOMES`.
        cause: The number of what made it fail, or `NO_CAUSE`.
        last: No other attempt of the item comes after it.
        arrival_ns: When it could have begun: the item was pulled, or the time of its backoff was over.
        slot_ns: When it had a slot.
        hedge: It ran beside the item's own attempt, and held no slot.
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
    """Attempts of one row group, in the order in which they ended. Times are those of the batch's clock.

    Attributes:
        packed: Of each attempt, as `PACK` packs them, the item's place in the input, and when it was pulled (which is
            when it got its slot), when the node was called (0 where it was not), and when the attempt ended.
        notes: For the attempts that need one.
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
