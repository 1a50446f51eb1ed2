"""Recorded attempts, prepared for a replay: the attempts of each item, and pools to draw further attempts from."""

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

__all__ = ["Call", "RecordedAttempts"]

_OK, _FAILED, _TIMED_OUT, _CANCELLED, _RESUMED = range(len(OUTCOMES))
_MIN_POOL: Final = 20  # fewer attempts are no basis for draws
_SEED: Final = 20_240_229


class Call(NamedTuple):
    """One attempt of a replay.

    Attributes:
        service_s: Service time, in seconds.
        cause: Number of the cause of its failure; -1 for a success.
        inflight: Attempts running when it began; 0 if unknown.
    """

    service_s: float
    cause: int
    inflight: int


@dataclass(slots=True)
class RecordedAttempts:
    """Attempts of a recording, in the form that a replay needs.

    Attributes:
        detail: Figures of the recorded batch.
        meta: Metadata of the recording.
        items: Number of items to replay.
        service: Service time of each item's first attempt, in seconds, in the order in which items were pulled.
        cause: Number of the cause of that attempt's failure; -1 for a success.
        inflight: Attempts running when that attempt began.
        later: Attempts after the first, by item; only for items that have any.
        delays: Seconds that the source took for each item, if it delayed the batch; else empty.
        retried: True for each cause whose failures the recorded batch retried.
        contention: Dependence of latency on concurrency, as far as the recording shows it.
        notes: Assumptions behind a forecast.
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
    _successful_s: Any = field(repr=False)
    _retries: dict[int, list[Call]] = field(repr=False)
    _sample: list[Call] = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> RecordedAttempts:
        """Read a recording.

        Raises:
            RecordingError: The file is missing, damaged, no recording, or holds no attempt.
            MissingExtraError: pyarrow or numpy is not installed.
        """
        meta, table = read_recording(path)
        attempts = Attempts.of_table(table)
        if not attempts.ran.any():
            raise RecordingError(f"{path} holds no attempt that ran: there is nothing to replay")
        return cls.of(meta, attempts, source=str(path))

    @classmethod
    def of(cls, meta: dict[str, Any], attempts: Attempts, *, source: str = "") -> RecordedAttempts:
        """Prepare attempts for a replay.

        Args:
            meta: Metadata of the recording.
            attempts: Attempts of the recording; at least one ran.
            source: Name of the file.
        """
        np = require_numpy("a forecast")
        notes: list[str] = []
        contention = fit_contention(attempts)
        notes.append(contention.note())
        rng = np.random.default_rng(_SEED)
        service = (attempts.end - attempts.start) / 1e9
        ok = attempts.ran & (attempts.outcome == _OK)
        won = attempts.index[attempts.hedge & (attempts.outcome == _OK)]  # items whose hedge won
        successful_s = np.sort(service[ok & ~np.isin(attempts.index, won)])
        if not len(successful_s):
            successful_s = np.sort(service[attempts.ran])
        refused = (attempts.attempt == 0) & ((attempts.outcome == _FAILED) | (attempts.outcome == _TIMED_OUT))
        replayed = ~refused & (attempts.outcome != _RESUMED)
        service, censored = _uncensor(attempts, service, successful_s, won, replayed, rng)
        cause = np.where(attempts.outcome == _OK, -1, attempts.cause)
        cause[(attempts.outcome == _TIMED_OUT) | (attempts.outcome == _CANCELLED)] = -1
        if censored:
            notes.append(
                f"{censored:,} attempts were cut short (by a timeout, the batch's end or a hedge): their service times "
                "are drawn from the attempts that took longer; without any, they never end"
            )
        if refused.any():
            notes.append(
                f"{int(refused.sum()):,} items failed without an attempt (rejected, refused by a policy, or restored "
                "from a journal): they are not replayed"
            )
        running = _inflight(attempts)

        own = np.flatnonzero(replayed & ~attempts.hedge)
        own = own[np.lexsort((attempts.attempt[own], attempts.index[own]))]
        first, later_rows = _by_item(attempts, own)
        later = {
            place: [Call(float(service[row]), int(cause[row]), int(running[row])) for row in rows if attempts.ran[row]]
            for place, rows in later_rows.items()
        }
        delays = _delays(meta, attempts, first)
        if len(delays):
            notes.append("the input (or the consumer of the results) delayed the batch: a replay repeats its delays")
        retries, sample = _pools(attempts, service, cause, own)
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
            _successful_s=successful_s,
            _retries=retries,
            _sample=sample,
        )

    def first(self, place: int) -> Call:
        """Return the first attempt of an item.

        Args:
            place: Position of the item in the order in which items were pulled.
        """
        return Call(self.service[place], self.cause[place], self.inflight[place])

    def retry(self, place: int, number: int, failed_by: int, rng: Random) -> Call:
        """Return an attempt after the first: the recorded one, or a draw from those that followed the same failure.

        Args:
            place: Position of the item.
            number: Number of the retry, from 1.
            failed_by: Cause of the failure before.
            rng: Random generator of the draw.
        """
        known = self.later.get(place)
        if known is not None and number <= len(known):
            return known[number - 1]
        pool = self._retries.get(failed_by) or self._sample
        return rng.choice(pool)

    def hedge(self, rng: Random) -> Call:
        """Return a hedge: a draw from the successful attempts."""
        return Call(float(rng.choice(self._successful_s)), -1, 0)

    @property
    def knows_retries(self) -> bool:
        """True if the recording shows enough attempts that followed failures."""
        return bool(self._retries)


def _uncensor(
    attempts: Attempts, service: Any, successful_s: Any, won: Ints, replayed: Any, rng: Any
) -> tuple[Any, int]:
    """Replace the service times of attempts that were cut short by draws from longer ones.

    Returns:
        The service times, and the number of attempts that were cut short.
    """
    np = require_numpy("a forecast")
    service = service.copy()
    cut = np.flatnonzero(
        replayed
        & (
            ~attempts.ran
            | (attempts.outcome == _TIMED_OUT)
            | (attempts.outcome == _CANCELLED)
            | (attempts.last & np.isin(attempts.index, won))
        )
    )
    if not len(cut):
        return service, 0
    at = np.searchsorted(successful_s, service[cut], side="right")
    longer = len(successful_s) - at
    drawn = at + (rng.random(len(cut)) * longer).astype(np.int64)
    service[cut] = np.where(longer > 0, successful_s[np.minimum(drawn, len(successful_s) - 1)], np.inf)
    return service, len(cut)


def _by_item(attempts: Attempts, own: Ints) -> tuple[Ints, dict[int, list[int]]]:
    """Group attempts by item.

    Args:
        attempts: All attempts.
        own: Rows of the attempts to group, sorted by item and number.

    Returns:
        The row of each item's first attempt, in the order in which items were pulled; and by position in that order
        the rows of further attempts, of items that have any.
    """
    np = require_numpy("a forecast")
    begins = np.flatnonzero(np.diff(attempts.index[own], prepend=-1))
    ends = np.append(begins[1:], len(own))
    order = np.argsort(attempts.arrival[own[begins]], kind="stable")
    begins, ends = begins[order], ends[order]
    retried = np.flatnonzero(ends - begins > 1).tolist()
    return own[begins], {place: own[begins[place] + 1 : ends[place]].tolist() for place in retried}


def _inflight(attempts: Attempts) -> Any:
    """Return the number of attempts that ran when each began, itself included."""
    np = require_numpy("a forecast")
    ran = attempts.ran
    starts, ends = np.sort(attempts.start[ran]), np.sort(attempts.end[ran])
    begun = np.searchsorted(starts, attempts.start, side="right")
    ended = np.searchsorted(ends, attempts.start, side="right")
    return np.maximum(begun - ended, 1)


def _delays(meta: dict[str, Any], attempts: Attempts, first: Ints) -> Any:
    """Seconds that the source took for each item once a slot was free; empty if it did not delay the batch."""
    np = require_numpy("a forecast")
    ledger = meta.get("ledger") or {"causes": [], "bound_ns": []}
    bound = dict(zip(ledger["causes"], ledger["bound_ns"], strict=True))
    wall_ns = max(1, int(meta.get("wall_ns") or 0))
    if bound and (bound.get("input", 0) + bound.get("consumer", 0)) / wall_ns < 0.02:
        return np.zeros(0)
    own = ~attempts.hedge  # hedges hold no slot
    taken = np.sort(attempts.slot[own])
    left = np.sort(attempts.end[own])
    limit = max((limit for _, limit in meta.get("limits", [])), default=int(np.max(_inflight(attempts))))
    pulled = attempts.arrival[first]
    number = np.searchsorted(taken, pulled, side="left")  # slots taken before
    free = np.where(number < limit, 0, left[np.clip(number - limit, 0, len(left) - 1)])
    delays = np.maximum(0, pulled - np.maximum(np.concatenate(([0], pulled[:-1])), free)) / 1e9
    if not bound and delays.sum() < 0.02 * wall_ns / 1e9:
        return np.zeros(0)
    return delays


def _pools(attempts: Attempts, service: Any, cause: Any, own: Ints) -> tuple[dict[int, list[Call]], list[Call]]:
    """Retries by the cause of the failure before, and a sample of all attempts for causes with too few retries."""
    np = require_numpy("a forecast")
    index, number = attempts.index[own], attempts.attempt[own]
    follows = np.flatnonzero((index[1:] == index[:-1]) & (number[1:] > number[:-1])) + 1
    retries: dict[int, list[Call]] = {}
    for at in follows.tolist():
        row, before = own[at], own[at - 1]
        if attempts.ran[row]:
            retries.setdefault(int(cause[before]), []).append(Call(float(service[row]), int(cause[row]), 0))
    retries = {number: calls for number, calls in retries.items() if len(calls) >= _MIN_POOL}
    rows = own[attempts.ran[own]]
    sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), 10_000)).astype(int)]
    return retries, [Call(float(service[row]), int(cause[row]), 0) for row in sample.tolist()]


def _retried(attempts: Attempts) -> dict[int, bool]:
    """By cause, true if any failure of that cause was retried."""
    np = require_numpy("a forecast")
    found: dict[int, bool] = {}
    own = ~attempts.hedge & (attempts.cause >= 0)
    for number in np.unique(attempts.cause[own]).tolist():
        found[number] = bool((~attempts.last[own & (attempts.cause == number)]).any())
    return found
