"""Attempts by slot: data for a chart that stays readable, and small, at a million items.

Slots are reconstructed from the times: an attempt takes the slot that has been idle for longest. If there are many
slots, a selection is shown: slots that held stragglers, and others at equal distances. Within a slot, attempts shorter
than a pixel are merged with their neighbours; stragglers, failures and retries are not.
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
_STRAGGLER_LANES: Final = 16  # lanes that are reserved for slots with stragglers
_STRAGGLERS: Final = 200
_MAX_NOTABLE: Final = 4000  # failures and retries with their own bars
_PIXELS: Final = 600
_SLOT_BITS: Final = 32
_SLOT_MASK: Final = (1 << _SLOT_BITS) - 1
_MAX_PLAIN: Final = 12_000  # bars of ordinary attempts; beyond that short ones are merged


@dataclass(slots=True)
class Lanes:
    """Columns of bars. A bar is one attempt, or several merged ones. Times are in seconds.

    Attributes:
        slots: Number of slots.
        shown: Numbers of the shown slots, ascending.
        lane: Index into `shown`.
        begin: Time of the node's call.
        end: Time at which the attempt ended.
        held: Time at which it took the slot; earlier than `begin` if it waited for a rate limit.
        index: Index of the item in the input; -1 for merged attempts.
        count: Number of attempts that the bar stands for.
        attempt: Number of the attempt; 0 for merged attempts.
        outcome: Index into `OUTCOMES`.
        straggler: 1 for an attempt among the slowest, else 0.
        attempts: Number of attempts in all slots.
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
    """Return the bars of a batch, or None if nothing ran.

    Args:
        attempts: Attempts of the batch.
        wall_ns: Wall time in nanoseconds.
    """
    np = require_numpy("a report of a recording")
    held = np.flatnonzero(attempts.end > attempts.slot)
    held = held[attempts.ran[held] & ~attempts.hedge[held]]
    if not len(held) or wall_ns <= 0:
        return None
    held = held[np.argsort(attempts.slot[held], kind="stable")]
    slot_of = _assign(attempts.slot[held], attempts.end[held])
    slots = int(slot_of.max()) + 1

    service = (attempts.end - attempts.start)[held]
    straggler = np.zeros(len(held), bool)
    most = min(_STRAGGLERS, max(1, len(held) // 200))
    straggler[np.argpartition(service, -most)[-most:]] = True
    shown = _choose(slot_of, service, straggler, slots)
    lane_of = np.full(slots, -1)
    lane_of[shown] = np.arange(len(shown))
    lane = lane_of[slot_of]

    notable = (attempts.outcome[held] != OUTCOMES.index("ok")) | (attempts.attempt[held] > 1)
    alone, plain = _split(lane >= 0, straggler, notable, service > wall_ns / _PIXELS * 2)
    one = held[alone]
    groups = _merge(attempts, held[plain], lane[plain], wall_ns)
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


def _split(shown: Any, straggler: Any, notable: Any, wide: Any) -> tuple[Any, Any]:
    """Split attempts into those with a bar of their own, and those to merge with their neighbours.

    Args:
        shown: True for attempts in a lane that is shown; the others are in neither part.
        straggler: True for the slowest attempts.
        notable: True for failures and retries.
        wide: True for attempts that are wider than two pixels.
    """
    np = require_numpy("a report of a recording")
    notable = notable & shown
    where = np.flatnonzero(notable)
    if len(where) > _MAX_NOTABLE:
        notable[:] = False
        notable[where[np.linspace(0, len(where) - 1, _MAX_NOTABLE).astype(int)]] = True
    alone = shown & (straggler | notable)
    plain = shown & ~alone
    if plain.sum() <= _MAX_PLAIN:
        return alone | plain, np.zeros_like(plain)
    wide = wide & plain
    return (alone | wide, plain & ~wide) if wide.sum() <= _MAX_PLAIN else (alone, plain)


def _assign(begin: Ints, end: Ints) -> Ints:
    """Assign a slot to each interval, using as few slots as possible. The intervals are sorted by begin."""
    np = require_numpy("a report of a recording")
    busy: list[int] = []  # heap of the times at which slots become free, with the slot number in the low bits
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


def _choose(slot_of: Ints, service: Ints, straggler: Any, slots: int) -> Ints:
    """Choose the slots to show: all if they fit, else the slots of the worst stragglers and some at equal distances."""
    np = require_numpy("a report of a recording")
    if slots <= _LANES:
        return np.arange(slots)  # type: ignore[no-any-return]
    worst = np.flatnonzero(straggler)
    worst = worst[np.argsort(-service[worst])]
    chosen = list(dict.fromkeys(slot_of[worst].tolist()))[:_STRAGGLER_LANES]
    spread = [s for s in np.linspace(0, slots - 1, _LANES).astype(int).tolist() if s not in chosen]
    step = len(spread) / (_LANES - len(chosen))
    chosen += [spread[int(i * step)] for i in range(_LANES - len(chosen)) if int(i * step) < len(spread)]
    return np.unique(chosen)  # type: ignore[no-any-return]


def _merge(attempts: Attempts, rows: Ints, lane: Ints, wall_ns: int) -> dict[str, Any]:
    """Merge attempts that begin within the same pixel of a lane into one bar."""
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
