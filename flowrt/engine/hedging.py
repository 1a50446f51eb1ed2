"""Hedging: a second attempt beside an unusually slow one. The first success wins; the loser is cancelled.

An item's own attempt runs in the item's task. Each hedge runs in another task, in a copy of the context in which the
own attempt began. The losers have ended before the item's outcome is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final

from flowrt.engine.outcome import settle, settle_exception
from flowrt.engine.parts import RunParts
from flowrt.engine.timeouts import GRACE_S
from flowrt.model import HedgeOutcome, HedgeRecord, ItemRecord, make_record
from flowrt.model.node import NodeResult
from flowrt.policies.hedging import HedgeTracker
from flowrt.policies.rate_limiter import Ticket

__all__ = ["Hedging"]

_FINEST_NS: Final = 1_000_000  # shortest interval between two checks
_COARSEST_NS: Final = 10_000_000  # longest delay of a hedge where stragglers take seconds


class Hedging:
    """Runs a batch's attempts, with hedges beside stragglers.

    Args:
        parts: The run's parts.
        tracker: Decides which items are stragglers, and how many may be hedged.
        on_stuck: Called with the task of an item whose hedge has won and whose own attempt outlasts the grace period.
    """

    def __init__(self, parts: RunParts, tracker: HedgeTracker, on_stuck: Callable[[asyncio.Task[Any]], None]) -> None:
        self._attempt = parts.attempt
        self._tracker = tracker
        self._batch = parts.batch
        self._loop = parts.loop
        self._clock = parts.clock
        self._policies = parts.policies
        self._dispatch = parts.dispatch
        self._abandon_attempt = parts.abandon_attempt
        self._on_stuck = on_stuck
        self._races: dict[int, _Race] = {}  # by the item's index, in the order of their starts
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    async def begin(self, item: ItemRecord) -> Any:
        """Run an item's attempt, with hedges if it becomes a straggler; returns the first success, or raises."""
        index = item.index
        race = self._races[index] = _Race(item, asyncio.current_task(), copy_context())
        if self._timer is None:
            self._set_timer(self._tracker.after_ns)
        outcome, error = None, None
        try:
            try:
                outcome = await self._attempt(item)
            except BaseException as exc:
                if not race.hedges:
                    raise
                error = exc
            finally:
                del self._races[index]
            if race.hedges:
                outcome = await self._decide(race, outcome, error)
                error = None  # of an attempt that has lost: its traceback holds this frame
        except BaseException:
            del item, race, error  # in this frame, which the error's traceback holds, they would form a cycle
            raise
        if self._tracker.learns and _went_well(outcome):
            # a hedged item counts with its whole time: with the time of its hedge, stragglers would seem quick, the
            # quantile would fall, and ever more items would be hedged
            self._tracker.record(self._clock() - item.started_ns)
            if self._timer is None and self._races:
                self._set_timer(self._tracker.after_ns)
        return outcome

    def expire(self, item: ItemRecord) -> bool:
        """Cancel the hedges of an item over its time limit; returns False if a hedge has won, so the item is ending."""
        race = self._races.get(item.index)
        if race is not None:
            if race.winner is not None:
                return False
            race.cancel_hedges()
        return True

    def give_up(self, item: ItemRecord) -> Any:
        """Abandon the hedges of an abandoned item; returns the outcome of the hedge that had won, or None."""
        race = self._races.get(item.index)
        if race is None:
            return None
        race.cancel_hedges()
        self._abandon(race)
        return None if race.winner is None else race.winner.outcome

    def stop(self) -> None:
        """Start no more hedges, and cancel the running ones."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for race in self._races.values():
            race.cancel_hedges()

    # -- stragglers --------------------------------------------------------------------------------------------

    def _set_timer(self, in_ns: int | None) -> None:
        if in_ns is not None and not self._stopped:
            self._timer = self._loop.call_later(in_ns / 1e9, self._check)

    def _check(self) -> None:
        """Hedge the stragglers, and set the timer for the earliest time at which the next item may be one."""
        self._timer = None
        after = self._tracker.after_ns
        if after is None:
            return
        now = self._clock()
        soonest = 0
        for race in tuple(self._races.values()):
            if race.over or race.hedges >= self._tracker.most:
                continue
            if not race.item.started_ns:  # the item waits in the queue of a remote executor: check again later
                soonest = min(soonest or now + after, now + after)
                continue
            due = race.item.started_ns + after * (race.hedges + 1)
            if due <= now:
                self._hedge(race, now)
                due = now + after  # for a further hedge, or for another check
            soonest = min(soonest or due, due)
            if not race.hedges:
                break  # the following attempts began later
        if soonest:
            finest = min(max(after // 10, _FINEST_NS), _COARSEST_NS)
            self._set_timer(max(soonest - now, finest))

    def _hedge(self, race: _Race, now: int) -> None:
        item, tracker, batch = race.item, self._tracker, self._batch
        if self._running >= max(1, int(tracker.share * batch.limit)):
            return
        if not tracker.due(now - item.started_ns, race.hedges, batch.begun):
            return
        ticket: Ticket | None = None
        if self._policies is not None:
            admitted, ticket = self._policies.enter_hedge(item)
            if not admitted:
                tracker.give_back()
                return
        if not race.hedges:
            item.beside = item.attempts
            item.first_started_ns = item.first_started_ns or item.started_ns
        race.hedges += 1
        item.hedges += 1
        self._running += 1
        hedge = _HedgeAttempt(race, ticket)
        run = self._run(hedge)
        # not by the loop's task factory: an eager task might end before it is recorded in `race.active`
        task = asyncio.Task(run, loop=self._loop, name=f"{batch.name} hedge", context=race.context.copy())
        task.add_done_callback(self._hedge_ended)
        race.active[hedge] = task

    # -- one hedge --------------------------------------------------------------------------------------------

    async def _run(self, hedge: _HedgeAttempt) -> None:
        """Run one hedge from its start to its outcome."""
        race = hedge.race
        hedge.started_ns = self._clock()
        try:
            awaitable = self._attempt(race.item)
            hedge.number = race.item.attempts
            hedge.outcome = await awaitable
        except BaseException as exc:  # raised in the item's task if this hedge wins
            hedge.error = exc
        if race.active.pop(hedge, None) is not None:  # otherwise it was abandoned
            self._conclude(race, hedge)
        if race.winner is not hedge:
            hedge.error = None  # its traceback holds this frame, and so the hedge

    def _conclude(self, race: _Race, hedge: _HedgeAttempt) -> None:
        """Decide the race if it is open and the hedge has succeeded, and report the hedge."""
        if race.over:
            self._report(hedge, "lost")
        elif hedge.wins:
            race.winner = hedge
            race.cancel_hedges()
            self._report(hedge, "won")
            if not race.waiting:
                race.worker.cancel()
                race.timer = self._loop.call_later(GRACE_S, self._stuck, race)
        else:
            self._report(hedge, "failed")

    async def _decide(self, race: _Race, outcome: Any, error: BaseException | None) -> Any:
        """Return or raise the outcome of an item whose own attempt has ended, after its hedges have ended too."""
        worker = race.worker
        if race.timer is not None:
            race.timer.cancel()
        if race.winner is not None:
            worker.uncancel()  # `_conclude` cancelled the own attempt, as it had lost
        elif not _is_cut_short(error, worker) and not _went_well(outcome):
            race.waiting = True
            try:
                while race.winner is None and (running := race.running()):
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError as exc:
                error = exc
        race.cancel_hedges()
        await self._end_hedges(race)
        winner, race.winner = race.winner, None  # it refers to the race
        if winner is not None:
            if error is None or not _is_final(error):
                outcome, error, race.item.ticket = winner.outcome, winner.error, winner.ticket
            winner.error = None  # its traceback holds the frame that holds the hedge
        if error is not None:
            try:
                raise error
            finally:
                del error, race, winner  # in this frame they would be in a reference cycle with the traceback
        return outcome

    async def _end_hedges(self, race: _Race) -> None:
        """Wait until the cancelled hedges have ended, for at most the grace period."""
        deadline_s = self._loop.time() + GRACE_S
        interrupted: asyncio.CancelledError | None = None
        while (running := race.running()) and (left_s := deadline_s - self._loop.time()) > 0:
            try:
                await asyncio.wait(running, timeout=left_s)
            except asyncio.CancelledError as exc:  # wait on, since the hedges are ending
                interrupted = exc
        race.item.uncancellable = bool(running)
        self._abandon(race)
        if interrupted is not None and race.winner is None:
            raise interrupted

    def _abandon(self, race: _Race) -> None:
        """Abandon the hedges that have not ended. A hedge that was cancelled before its start is not counted."""
        hedges, race.active = race.active, {}
        for hedge, task in hedges.items():
            if hedge.number:
                if not task.done():
                    self._abandon_attempt()
                self._report(hedge, "lost")
            else:
                race.item.hedges -= 1
                self._tracker.give_back()

    def _hedge_ended(self, _: asyncio.Task[None]) -> None:
        self._running -= 1

    def _stuck(self, race: _Race) -> None:
        if self._races.get(race.item.index) is race:
            self._on_stuck(race.worker)

    def _report(self, hedge: _HedgeAttempt, outcome: HedgeOutcome) -> None:
        if not self._dispatch.takes("hedge_ended"):
            return
        item = hedge.race.item
        scratch = make_record(self._batch, item.index, None, 0)
        if outcome == "failed":
            if hedge.error is None:
                settle(scratch, hedge.outcome)
            else:
                settle_exception(scratch, hedge.error)
        item.hedge = HedgeRecord(hedge.number, hedge.started_ns, self._clock(), outcome, scratch)
        self._dispatch.notify("hedge_ended", item)

    def __repr__(self) -> str:
        return f"<Hedging: {self._running} running, {self._tracker!r}>"


class _Race:
    """An item's own attempt and its hedges.

    Attributes:
        hedges: Number of hedges that were started.
        active: The running hedges, with their tasks.
        winner: The hedge that succeeded before the item's own attempt and all other hedges, or None.
        waiting: True once the item's own attempt has failed and its task waits for a hedge.
        over: True once the race is decided: a later success of a hedge does not count.
    """

    __slots__ = ("active", "context", "hedges", "item", "over", "timer", "waiting", "winner", "worker")

    def __init__(self, item: ItemRecord, worker: asyncio.Task[Any] | None, context: Context) -> None:
        if worker is None:
            raise RuntimeError("an attempt begins in a task")
        self.item = item
        self.worker = worker
        self.context = context
        self.hedges = 0
        self.active: dict[_HedgeAttempt, asyncio.Task[None]] = {}
        self.winner: _HedgeAttempt | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiting = False
        self.over = False

    def running(self) -> list[asyncio.Task[None]]:
        """Return the tasks of the hedges that have not ended."""
        return [task for task in self.active.values() if not task.done()]

    def cancel_hedges(self) -> None:
        """End the race and cancel the running hedges, which have lost."""
        self.over = True
        for task in self.active.values():
            task.cancel()


class _HedgeAttempt:
    """One hedge: a further attempt beside the item's own."""

    __slots__ = ("error", "number", "outcome", "race", "started_ns", "ticket")

    def __init__(self, race: _Race, ticket: Ticket | None) -> None:
        self.race = race
        self.ticket = ticket
        self.number = 0
        self.started_ns = 0
        self.outcome: Any = None
        self.error: BaseException | None = None

    @property
    def wins(self) -> bool:
        """True if the hedge succeeded, or raised KeyboardInterrupt or SystemExit, which must be raised again."""
        if self.error is None:
            return _went_well(self.outcome)
        return _is_final(self.error)


def _went_well(outcome: Any) -> bool:
    return isinstance(outcome, NodeResult) and outcome.success


def _is_cut_short(error: BaseException | None, worker: asyncio.Task[Any]) -> bool:
    """Return whether an attempt was cancelled from outside or ends the batch, so that no hedge may replace it."""
    if isinstance(error, asyncio.CancelledError):
        return worker.cancelling() > 0  # 0: the node raised the error itself
    return error is not None and _is_final(error)


def _is_final(error: BaseException) -> bool:
    """Return whether an error ends the batch: KeyboardInterrupt, SystemExit."""
    return not isinstance(error, (Exception, asyncio.CancelledError))
