"""What ran in which slot: a chart that stays readable, and small, at a million items.

Slots are found again from the times: an attempt takes the slot that has stood empty for the longest time. Of many
slots some are shown: those that held the stragglers, and others at equal distances. In a slot, what is shorter than
the eye can see is drawn together with its neighbours; stragglers, failures and retries are not.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flowrt.recording.columns import OUTCOMES
from flowrt.reporting.attempts import Attempts, require_numpy

if TYPE_CHECKING:
    from flowrt.reporting.attempts import Ints

__all__ = ["Lanes", "make_lanes"]

_LANES: Final = 50
_OF_STRAGGLERS: Final = 16  # lanes that are shown because a straggler ran there
_STRAGGLERS: Final = 200
_ODD: Final = 4000  # failures and retries that get a bar of their own
_PIXELS: Final = 600
_SLOT_BITS: Final = 32
_SLOT_MASK: Final = (1 << _SLOT_BITS) - 1
_MOST_PLAIN: Final = 12_000  # bars; beyond this they are drawn together


@dataclass(slots=True)
class Lanes:
    """Bars, each an attempt or several that are drawn together; a column each. Times are in seconds.

    Attributes:
        slots: How many slots there were.
        shown: The numbers of those that are shown, in order.
        lane: Places in `shown`.
        begin: When the node was called.
        end: When the attempt ended.
        held: When the slot was taken: earlier than `begin` where a rate limit was waited for.
        index: The item's place in the input; -1 for several.
        count: How many attempts the bar stands for.
        attempt: The attempt's number; 0 for several.
        outcome: Places in `OUTCOMES`.
        straggler: 1 where the attempt is among those that took longest.
        attempts: How many attempts there were in all slots.
    """

    slots: int
    shown: list[int]
    lane: list[int]
    begin: list[float]
    end: list[float]
    held: list[float]
    index: list[int]
    count: list[int]
    attempt: list[int]
    outcome: list[int]
    straggler: list[int]
    attempts: int


def make_lanes(attempts: Attempts, wall_ns: int) -> Lanes | None:
    """The bars of a batch, or None where nothing ran.

    Args:
        attempts: The batch's attempts.
        wall_ns: How long the batch took.
    """
    np = require_numpy("a report of a recording")
    held = np.flatnonzero(attempts.end > attempts.slot)
    held = held[attempts.ran[held] & ~attempts.hedge[held]]
    if not len(held) or wall_ns <= 0:
        return None
    held = held[np.argsort(attempts.slot[held], kind="stable")]
    slot_of = _assign(attempts.slot[held], attempts.end[held])
    slots = int(slot_of.max()) + 1

    took = (attempts.end - attempts.start)[held]
    straggler = np.zeros(len(held), bool)
    most = min(_STRAGGLERS, max(1, len(held) // 200))
    straggler[np.argpartition(took, -most)[-most:]] = True
    shown = _choose(slot_of, took, straggler, slots)
    lane_of = np.full(slots, -1)
    lane_of[shown] = np.arange(len(shown))
    lane = lane_of[slot_of]

    odd = (attempts.outcome[held] != OUTCOMES.index("ok")) | (attempts.attempt[held] > 1)
    odd &= lane >= 0
    where = np.flatnonzero(odd)
    if len(where) > _ODD:
        odd[:] = False
        odd[where[np.linspace(0, len(where) - 1, _ODD).astype(int)]] = True
    alone = (lane >= 0) & (straggler | odd)
    plain = (lane >= 0) & ~alone
    if plain.sum() <= _MOST_PLAIN:
        alone |= plain
        plain[:] = False
    else:
        wide = plain & (took > wall_ns / _PIXELS * 2)
        if wide.sum() <= _MOST_PLAIN:
            alone |= wide
            plain &= ~wide

    one = held[alone]
    groups = _draw_together(attempts, held[plain], lane[plain], wall_ns)
    count = len(groups["lane"])

    def both(own: Any, grouped: Any) -> list[Any]:
        return np.concatenate((own, grouped)).tolist()  # type: ignore[no-any-return]

    return Lanes(
        slots=slots,
        shown=shown.tolist(),
        lane=both(lane[alone], groups["lane"]),
        begin=both(attempts.start[one] / 1e9, groups["begin"] / 1e9),
        end=both(attempts.end[one] / 1e9, groups["end"] / 1e9),
        held=both(attempts.slot[one] / 1e9, groups["begin"] / 1e9),
        index=both(attempts.index[one], np.full(count, -1)),
        count=both(np.ones(len(one), int), groups["count"]),
        attempt=both(attempts.attempt[one], np.zeros(count, int)),
        outcome=both(attempts.outcome[one], groups["outcome"]),
        straggler=both(straggler[alone].astype(int), np.zeros(count, int)),
        attempts=len(held),
    )


def _assign(begin: Ints, end: Ints) -> Ints:
    """A slot for each interval, sorted by when they begin; as few slots as there can be."""
    np = require_numpy("a report of a recording")
    busy: list[int] = []  # when a slot is free again, and in the low bits its number
    found = []
    for starts, ends in zip(begin.tolist(), end.tolist(), strict=True):
        if busy and busy[0] >> _SLOT_BITS <= starts:
            slot = busy[0] & _SLOT_MASK
            heapq.heapreplace(busy, ends << _SLOT_BITS | slot)
        else:
            slot = len(busy)
            heapq.heappush(busy, ends << _SLOT_BITS | slot)
        found.append(slot)
    return np.array(found, np.int64)  # type: ignore[no-any-return]


def _choose(slot_of: Ints, took: Ints, straggler: Any, slots: int) -> Ints:
    """The slots to show: all of a few; of many, those of the worst stragglers and some at equal distances."""
    np = require_numpy("a report of a recording")
    if slots <= _LANES:
        return np.arange(slots)  # type: ignore[no-any-return]
    worst = np.flatnonzero(straggler)
    worst = worst[np.argsort(-took[worst])]
    chosen = list(dict.fromkeys(slot_of[worst].tolist()))[:_OF_STRAGGLERS]
    spread = [s for s in np.linspace(0, slots - 1, _LANES).astype(int).tolist() if s not in chosen]
    step = len(spread) / (_LANES - len(chosen))
    chosen += [spread[int(i * step)] for i in range(_LANES - len(chosen)) if int(i * step) < len(spread)]
    return np.unique(chosen)  # type: ignore[no-any-return]


def _draw_together(attempts: Attempts, rows: Ints, lane: Ints, wall_ns: int) -> dict[str, Any]:
    """Attempts that begin within one pixel of a lane become one bar."""
    np = require_numpy("a report of a recording")
    pixel = (attempts.start[rows] * _PIXELS // wall_ns).astype(np.int64)
    key = lane.astype(np.int64) * (_PIXELS + 1) + np.minimum(pixel, _PIXELS)
    order = np.argsort(key, kind="stable")
    key, rows, lane = key[order], rows[order], lane[order]
    firsts = np.flatnonzero(np.diff(key, prepend=-1))
    if not len(firsts):
        nothing = np.zeros(0, np.int64)
        return dict.fromkeys(("lane", "begin", "end", "count", "outcome"), nothing)
    return {
        "lane": lane[firsts],
        "begin": np.minimum.reduceat(attempts.start[rows], firsts),
        "end": np.maximum.reduceat(attempts.end[rows], firsts),
        "count": np.diff(np.append(firsts, len(key))),
        "outcome": np.maximum.reduceat(attempts.outcome[rows], firsts),
    }
