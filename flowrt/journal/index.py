"""Which items a journal holds and where: eight bytes for each."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from flowrt.journal.format import STATUS_CODES

__all__ = ["Table"]

_GAP: Final = 1 << 20  # an index further beyond the others than this is kept apart
_STATUSES: Final = {code: status.decode("ascii") for status, code in STATUS_CODES.items()}


class Table:
    """For each index the place of its latest record and how it ended."""

    __slots__ = ("_far", "_near", "_size")

    def __init__(self) -> None:
        self._near = array("Q")  # offset << 2 | code of the status; 0 for none
        self._far: dict[int, int] = {}
        self._size = 0

    def put(self, index: int, offset: int, code: int) -> None:
        """Note a record; a later one of the same index takes its place.

        Args:
            index: The item's index.
            offset: Where its line begins.
            code: Of its status.
        """
        near = self._near
        entry = offset << 2 | code
        if index == len(near) and not self._far:
            near.append(entry)
            self._size += 1
            return
        self._size += not self._entry(index)
        if index < len(near) + _GAP:
            if index >= len(near):
                near.frombytes(bytes(8 * (index + 1 - len(near))))
            near[index] = entry
            self._far.pop(index, None)
        else:
            self._far[index] = entry

    def get(self, index: int) -> tuple[int, str] | None:
        """Where the index's record begins and the item's status, or None."""
        entry = self._entry(index)
        return (entry >> 2, _STATUSES[entry & 3]) if entry else None

    def _entry(self, index: int) -> int:
        if 0 <= index < len(self._near) and (entry := self._near[index]):
            return entry
        return self._far.get(index, 0)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, index: int) -> bool:
        return self._entry(index) != 0

    def __iter__(self) -> Iterator[int]:
        """The indices in order."""
        for index in range(len(self._near)):
            if self._entry(index):
                yield index
        yield from sorted(index for index in self._far if index >= len(self._near))

    @property
    def last(self) -> int:
        """The highest index, -1 for none."""
        if self._far and (far := max(self._far)) >= len(self._near):
            return far
        return len(self._near) - 1

    def counts(self) -> dict[str, int]:
        """How many items ended in which way."""
        counts = dict.fromkeys(_STATUSES.values(), 0)
        for index in self:
            counts[_STATUSES[self._entry(index) & 3]] += 1
        return counts
