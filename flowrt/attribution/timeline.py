"""Time by cause over a batch's life, in a bounded number of pieces."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["Timeline"]

_FIRST_WIDTH_NS: Final = 10_000_000
_MOST_PIECES: Final = 512
_MOST_SEGMENTS: Final = 1_024


class Timeline:
    """Causes over time: segments at first, and pieces of equal width once there are too many segments.

    A segment costs two numbers in an array however long it is, so a batch that only waits costs nothing while it waits.
    The garbage collector visits the array, and not the numbers.

    Args:
        causes: Number of causes.
        origin_ns: Start of the timeline.
    """

    __slots__ = ("_causes", "_folded_ns", "_origin_ns", "_pieces", "_segments", "_width_ns")

    def __init__(self, causes: int, origin_ns: int = 0) -> None:
        self._causes = causes
        self._origin_ns = self._folded_ns = origin_ns
        self._width_ns = _FIRST_WIDTH_NS
        self._pieces: Sequence[list[int]] = ()
        # cause and end of one segment after another: each begins where the one before it ends
        self._segments: array[int] = array("q")

    def add(self, cause: int, until_ns: int) -> None:
        """Append a segment from the end of the previous one.

        Args:
            cause: Index of the segment's cause.
            until_ns: End of the segment; not before the end of the previous one.
        """
        segments = self._segments
        if segments and segments[-2] == cause:
            segments[-1] = until_ns
            return
        if len(segments) >= 2 * _MOST_SEGMENTS:
            self._fold()
        segments.extend((cause, until_ns))  # one call into C, so that another thread never sees half a segment

    def pieces(self) -> Iterator[tuple[int, int, Sequence[int]]]:
        """Divide the timeline into at most 512 pieces, of equal width except for the last.

        Yields:
            Begin and end of a piece in nanoseconds from the origin, and its nanoseconds by cause.
        """
        whole = Timeline(self._causes, self._origin_ns)
        whole._folded_ns, whole._width_ns = self._folded_ns, self._width_ns
        whole._pieces = [piece.copy() for piece in self._pieces]
        whole._segments = self._segments[:]
        whole._fold()
        for place, piece in enumerate(whole._pieces):
            if any(piece):
                begin_ns = place * whole._width_ns
                yield begin_ns, begin_ns + sum(piece), piece

    def _fold(self) -> None:
        """Move the segments into the pieces, after doubling the pieces' width as often as needed."""
        if not self._segments:
            return
        origin_ns = self._origin_ns
        pieces = self._pieces = [*self._pieces]
        while self._segments[-1] - origin_ns > _MOST_PIECES * self._width_ns:
            self._width_ns *= 2
            for place in range(0, len(pieces), 2):
                pieces[place // 2] = [sum(pair) for pair in zip(*pieces[place : place + 2], strict=True)]
            del pieces[(len(pieces) + 1) // 2 :]
        width_ns, at_ns = self._width_ns, self._folded_ns
        for cause, end_ns in zip(self._segments[::2], self._segments[1::2], strict=True):
            while at_ns < end_ns:
                place = (at_ns - origin_ns) // width_ns
                if place == len(pieces):
                    pieces.append([0] * self._causes)
                stop_ns = min(end_ns, origin_ns + (place + 1) * width_ns)
                pieces[place][cause] += stop_ns - at_ns
                at_ns = stop_ns
        self._folded_ns = at_ns
        del self._segments[:]
