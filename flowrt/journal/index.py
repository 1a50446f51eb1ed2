"""Index of a journal: which items it holds and where, in eight bytes per item."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from flowrt.journal.format import STATUS_CODES

__all__ = ["Table"]

_GAP: Final = 1 << 20  # an index further beyond the others goes into a dict, or it would allocate a huge array
_STATUSES: Final = {code: status.decode("ascii") for status, code in STATUS_CODES.items()}


class Table:
    """Offset of the latest record, and status, of each item."""

    __slots__ = ("_far", "_near", "_size")

    def __init__(self) -> None:
        self._near = array("Q")  # by index: offset << 2 | code of the status; 0 for no record
        self._far: dict[int, int] = {}
        self._size = 0

    def put(self, index: int, offset: int, code: int) -> None:
        """Add a record; it replaces an earlier one of the same index.

        Args:
            index: The item's index.
            offset: Start of its line, in bytes.
            code: Code of its status.
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
        """Return the offset of the item's record and the item's status, or None."""
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
        """Iterate over the indices in order."""
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
        """Return the number of items by status."""
        counts = dict.fromkeys(_STATUSES.values(), 0)
        for index in self:
            counts[_STATUSES[self._entry(index) & 3]] += 1
        return counts
