"""A recording made ready for replaying: each item's attempts, and the pools that further ones are drawn from."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flowrt.recording.columns import OUTCOMES
from flowrt.recording.errors import RecordingError
from flowrt.recording.parquet import read_recording
from flowrt.reporting.attempts import Attempts, require_numpy
from flowrt.reporting.figures import Detail, detail_of
from flowrt.whatif.contention import Contention, fit_contention

if TYPE_CHECKING:
    from flowrt.reporting.attempts import Ints

__all__ = ["Call", "Tape"]

_OK, _FAILED, _TIMED_OUT, _CANCELLED, _RESUMED = range(len(OUTCOMES))
_FEW: Final = 20  # draws from fewer than this say little
_SEED: Final = 20_240_229


class Call(NamedTuple):
    """One attempt to be replayed.

    Attributes:
        service_s: How long it takes.
        cause: The number of what makes it fail, or -1.
        inflight: How many ran when it began, where that is known; else 0.
    """

    service_s: float
    cause: int
    inflight: int


@dataclass(slots=True)
class Tape:
    """What a replay needs of a recording.

    Attributes:
        detail: What the recorded batch came to.
        meta: The recording's metadata.
        items: How many items there are to replay.
        service: Of each item's first attempt, in the order in which they were pulled.
        cause: What made it fail, or -1.
        inflight: How many attempts ran when it began.
        later: Of some items, their attempts after the first.
        delays: Seconds that the source needed before each item, where it held the batch back; else nothing.
        retried: By cause, whether the recorded batch tried it again.
        contention: How latency depends on concurrency, as far as the recording shows.
        notes: What a forecast from it rests on.
    """

    detail: Detail
    meta: dict[str, Any]
    items: int
    service: array[float]
    cause: array[int]
    inflight: array[int]
    later: dict[int, list[Call]]
    delays: array[float]
    retried: dict[int, bool]
    contention: Contention
    notes: list[str]
    _good: Any = field(repr=False)
    _again: dict[int, list[Call]] = field(repr=False)
    _any: list[Call] = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Tape:
        """Read a recording.

        Raises:
            RecordingError: It is missing, damaged, no recording, or holds no attempt.
            MissingExtraError: pyarrow or numpy is not installed.
        """
        meta, table = read_recording(path)
        attempts = Attempts.of_table(table)
        if not attempts.ran.any():
            raise RecordingError(f"{path} holds no attempt that ran: there is nothing to replay")
        return cls.of(meta, attempts, source=str(path))

    @classmethod
    def of(cls, meta: dict[str, Any], attempts: Attempts, *, source: str = "") -> Tape:
        """Make a tape of attempts.

        Args:
            meta: The recording's metadata.
            attempts: Its attempts; at least one ran.
            source: The file's name.
        """
        np = require_numpy("a forecast")
        notes: list[str] = []
        contention = fit_contention(attempts)
        notes.append(contention.says())
        rng = np.random.default_rng(_SEED)
        service = (attempts.end - attempts.start) / 1e9
        ok = attempts.ran & (attempts.outcome == _OK)
        won = attempts.index[attempts.hedge & (attempts.outcome == _OK)]
        good = np.sort(service[ok & ~np.isin(attempts.index, won)])
        if not len(good):
            good = np.sort(service[attempts.ran])
        refused = (attempts.attempt == 0) & ((attempts.outcome == _FAILED) | (attempts.outcome == _TIMED_OUT))
        here = ~refused & (attempts.outcome != _RESUMED)
        service, uncertain = _uncensor(attempts, service, good, won, here, rng)
        cause = np.where(attempts.outcome == _OK, -1, attempts.cause)
        cause[(attempts.outcome == _TIMED_OUT) | (attempts.outcome == _CANCELLED)] = -1
        if uncertain:
            notes.append(
                f"{uncertain:,} attempts were cut short (by a timeout, the batch's end or a hedge): how long they "
                "would have taken is drawn from the attempts that took longer, and where none did, they never end"
            )
        if refused.any():
            notes.append(
                f"{int(refused.sum()):,} items failed without an attempt (rejected, refused by a policy, or restored "
                "from a journal): they are not replayed"
            )
        running = _inflight(attempts)

        own = np.flatnonzero(here & ~attempts.hedge)
        own = own[np.lexsort((attempts.attempt[own], attempts.index[own]))]
        index = attempts.index[own]
        firsts = np.flatnonzero(np.diff(index, prepend=-1))
        order = np.argsort(attempts.arrival[own[firsts]], kind="stable")
        first = own[firsts][order]
        ends = np.append(firsts[1:], len(own))[order]
        later: dict[int, list[Call]] = {}
        for place in np.flatnonzero(ends - firsts[order] > 1).tolist():
            rows = own[firsts[order[place]] + 1 : ends[place]]
            later[place] = [
                Call(float(service[row]), int(cause[row]), int(running[row]))
                for row in rows.tolist()
                if attempts.ran[row]
            ]
        delays = _delays(meta, attempts, first)
        if len(delays):
            notes.append("the input (or whoever took the results) held the batch back; that is replayed as it was")
        again, everything = _pools(attempts, service, cause, own)
        return cls(
            detail=detail_of(meta, attempts, source=source),
            meta=meta,
            items=len(first),
            service=array("d", service[first].tolist()),
            cause=array("q", cause[first].tolist()),
            inflight=array("q", running[first].tolist()),
            later=later,
            delays=array("d", delays.tolist()),
            retried=_retried(attempts),
            contention=contention,
            notes=notes,
            _good=good,
            _again=again,
            _any=everything,
        )

    def first(self, place: int) -> Call:
        """An item's first attempt."""
        return Call(self.service[place], self.cause[place], self.inflight[place])

    def retry(self, place: int, number: int, failed_by: int, rng: Random) -> Call:
        """An attempt after the first: as it was recorded, or one like those that followed the same failure.

        Args:
            place: Which item.
            number: 1 for the first retry.
            failed_by: The cause of the failure before.
            rng: Draws it.
        """
        known = self.later.get(place)
        if known is not None and number <= len(known):
            return known[number - 1]
        pool = self._again.get(failed_by) or self._any
        return rng.choice(pool)

    def hedge(self, rng: Random) -> Call:
        """An attempt beside another: one like any that went well."""
        return Call(float(rng.choice(self._good)), -1, 0)

    @property
    def knows_retries(self) -> bool:
        """Whether the recording shows how attempts fare after failures."""
        return bool(self._again)


def _uncensor(attempts: Attempts, service: Any, good: Any, won: Ints, here: Any, rng: Any) -> tuple[Any, int]:
    """How long attempts would have taken that were not left to their end."""
    np = require_numpy("a forecast")
    service = service.copy()
    cut = np.flatnonzero(
        here
        & (
            ~attempts.ran
            | (attempts.outcome == _TIMED_OUT)
            | (attempts.outcome == _CANCELLED)
            | (attempts.last & np.isin(attempts.index, won))
        )
    )
    if not len(cut):
        return service, 0
    at = np.searchsorted(good, service[cut], side="right")
    longer = len(good) - at
    drawn = at + (rng.random(len(cut)) * longer).astype(np.int64)
    service[cut] = np.where(longer > 0, good[np.minimum(drawn, len(good) - 1)], np.inf)
    return service, len(cut)


def _inflight(attempts: Attempts) -> Any:
    """How many attempts ran when each began, itself included."""
    np = require_numpy("a forecast")
    ran = attempts.ran
    starts, ends = np.sort(attempts.start[ran]), np.sort(attempts.end[ran])
    begun = np.searchsorted(starts, attempts.start, side="right")
    ended = np.searchsorted(ends, attempts.start, side="right")
    return np.maximum(begun - ended, 1)


def _delays(meta: dict[str, Any], attempts: Attempts, first: Ints) -> Any:
    """How long the source took to give each item, once there was a slot for it."""
    np = require_numpy("a forecast")
    ledger = meta.get("ledger") or {"causes": [], "bound_ns": []}
    bound = dict(zip(ledger["causes"], ledger["bound_ns"], strict=True))
    wall_ns = max(1, int(meta.get("wall_ns") or 0))
    if bound and (bound.get("input", 0) + bound.get("consumer", 0)) / wall_ns < 0.02:
        return np.zeros(0)
    held = ~attempts.hedge
    taken = np.sort(attempts.slot[held])
    left = np.sort(attempts.end[held])
    limit = max((limit for _, limit in meta.get("limits", [])), default=int(np.max(_inflight(attempts))))
    pulled = attempts.arrival[first]
    number = np.searchsorted(taken, pulled, side="left")  # how many slots had been taken before
    free = np.where(number < limit, 0, left[np.clip(number - limit, 0, len(left) - 1)])
    delays = np.maximum(0, pulled - np.maximum(np.concatenate(([0], pulled[:-1])), free)) / 1e9
    if not bound and delays.sum() < 0.02 * wall_ns / 1e9:
        return np.zeros(0)
    return delays


def _pools(attempts: Attempts, service: Any, cause: Any, own: Ints) -> tuple[dict[int, list[Call]], list[Call]]:
    """Attempts that followed a failure, by its cause; and some of all, for where there are too few of those."""
    np = require_numpy("a forecast")
    index, number = attempts.index[own], attempts.attempt[own]
    follows = np.flatnonzero((index[1:] == index[:-1]) & (number[1:] > number[:-1])) + 1
    again: dict[int, list[Call]] = {}
    for at in follows.tolist():
        row, before = own[at], own[at - 1]
        if attempts.ran[row]:
            again.setdefault(int(cause[before]), []).append(Call(float(service[row]), int(cause[row]), 0))
    again = {number: calls for number, calls in again.items() if len(calls) >= _FEW}
    rows = own[attempts.ran[own]]
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 10_000)).astype(int)]
    return again, [Call(float(service[row]), int(cause[row]), 0) for row in some.tolist()]


def _retried(attempts: Attempts) -> dict[int, bool]:
    """By cause, whether any attempt that it made fail was followed by another."""
    np = require_numpy("a forecast")
    found: dict[int, bool] = {}
    own = ~attempts.hedge & (attempts.cause >= 0)
    for number in np.unique(attempts.cause[own]).tolist():
        found[number] = bool((~attempts.last[own & (attempts.cause == number)]).any())
    return found
