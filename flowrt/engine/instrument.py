"""The one seam between the engine and everything that watches it.

An instrument overrides the hooks it needs; a hook without an override is never called. Hooks run synchronously on the
loop's thread with the record itself, so they must be quick. An instrument that raises is disabled, logged once and
counted; the items go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Any, ClassVar, Final

from flowrt.model import BatchRecord, ItemRecord

__all__ = ["HOOKS", "Dispatch", "Instrument", "Phase", "instrument_errors"]

_log = logging.getLogger("flowrt.instrument")

HOOKS: Final = (
    "batch_started",
    "item_started",
    "cache_looked_up",
    "attempt_started",
    "attempt_ended",
    "retry_scheduled",
    "hedge_ended",
    "item_failed",
    "item_finished",
    "limit_changed",
    "circuit_changed",
    "pause_changed",
    "inputs_cancelled",
    "batch_ended",
)

_ENDS: Final = ("attempt_ended", "retry_scheduled", "item_failed", "item_finished", "batch_ended")

instrument_errors: Final[dict[str, int]] = {}
"""Number of instruments that were disabled because they raised, by class name."""


class Phase(IntEnum):
    """When an instrument is called, among those of a batch.

    Hooks that begin something are called in this order, hooks that end something in reverse, as contexts nest.
    """

    RECORDING = 0
    """Ends last, because its file contains the results of the others."""
    RECONCILIATION = 1
    """Ends after counting and tracing, which it compares."""
    METRICS = 2
    LIVE = 3
    LOGS = 4
    """Inside metrics and outside tracing, so that the events of an item have its trace id."""
    TRACING = 5
    LEDGER = 6
    """First of the built-in instruments to end; the others read the speedup, which follows from its service time."""
    USER = 7
    SAMPLE = 8
    """Ends before all others: a sampled speedup wins over the ledger's."""


class Instrument:
    """Watches batches. Subclass it, override the hooks you need, and pass an instance as `instruments=[...]`.

    Example:
        >>> class Count(Instrument):
        ...     finished = 0
        ...     def item_finished(self, item):
        ...         self.finished += 1
    """

    phase: ClassVar[Phase] = Phase.USER
    """When its hooks are called, among the batch's instruments."""

    def batch_started(self, batch: BatchRecord) -> None:
        """The batch is about to pull its first item. Runs in the context that the items' contexts are copies of."""

    def item_started(self, item: ItemRecord) -> None:
        """The item was pulled and has a slot. Runs in the context in which the node will run."""

    def cache_looked_up(self, item: ItemRecord) -> None:
        """The item's input was looked up in the cache; `item.cached` is true if its output was there."""

    def attempt_started(self, item: ItemRecord) -> None:
        """An attempt after the first is about to start, in the context in which the node will run."""

    def attempt_ended(self, item: ItemRecord) -> None:
        """An attempt has ended; the item's state and outcome are set, its `finished_ns` is the attempt's end."""

    def retry_scheduled(self, item: ItemRecord) -> None:
        """The attempt that has ended is not the last; `item.retry` has the reason and the delay."""

    def hedge_ended(self, item: ItemRecord) -> None:
        """A hedge has ended; `item.hedge` has its outcome. The item itself is running."""

    def item_failed(self, item: ItemRecord) -> None:
        """The item has failed or timed out for good, or is `uncancellable`; `item_finished` follows."""

    def item_finished(self, item: ItemRecord) -> None:
        """The item has reached a terminal status. Runs in its last attempt's context, unless `item.uncancellable`."""

    def limit_changed(self, batch: BatchRecord) -> None:
        """The concurrency limit has changed; `batch.limit_change` has the reason where it adapts by itself."""

    def circuit_changed(self, batch: BatchRecord) -> None:
        """The node's circuit breaker has changed its state; `batch.circuit` has both states and the reason."""

    def pause_changed(self, batch: BatchRecord) -> None:
        """The batch was paused, as `batch.paused_ns` says, or goes on."""

    def inputs_cancelled(self, batch: BatchRecord) -> None:
        """Many inputs were cancelled without having been started: `batch.unstarted` of them.

        Without this hook an instrument that overrides `item_started` or `item_finished` is called for each of them.
        """

    def batch_ended(self, batch: BatchRecord) -> None:
        """Every item that was pulled has finished."""


Hook = Callable[[Any], None]

Plan = Mapping[str, tuple[int, ...]]
"""The hooks that are overridden, each with the places of its instruments in the order of the calls."""


class Dispatch:
    """Overridden hooks of a batch's instruments. Which those are is found out once for each set of classes.

    Attributes:
        notify_started: Calls every `item_started` with an item; None if there is none. Of one instrument, it is its own
            hook, for which the caller handles exceptions with `disable`: it is called for every item, and a function
            around it would be six more objects of each batch.
        notify_finished: The same for the first `item_finished`.
        notify_finished_after: The same for those after the first.
        takes_attempts: True if an instrument overrides `attempt_ended`.
        takes_failures: True if an instrument overrides `item_failed`.
        active: True if an instrument overrides any hook.

    Args:
        instruments: Called in the order of their phases; those of one phase in the order given. The hooks that end
            something (`attempt_ended`, `retry_scheduled`, `item_failed`, `item_finished`, `batch_ended`) are called in
            reverse.

    Raises:
        TypeError: One of them is not an instrument, or its phase is not a `Phase`.
    """

    __slots__ = (
        "_instruments",
        "_plan",
        "active",
        "notify_finished",
        "notify_finished_after",
        "notify_started",
        "takes_attempts",
        "takes_failures",
    )

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._instruments = tuple(instruments)
        self._set_plan(_plan_of(tuple(map(type, self._instruments))))

    @classmethod
    def of(cls, instruments: tuple[Instrument, ...]) -> Dispatch:
        """Return the dispatch of a batch's instruments; all batches without instruments share one.

        Raises:
            TypeError: As the constructor.
        """
        return cls(instruments) if instruments else _NO_INSTRUMENTS

    def _set_plan(self, plan: Plan) -> None:
        self._plan = plan
        self.active = bool(plan)
        self.takes_attempts = "attempt_ended" in plan
        self.takes_failures = "item_failed" in plan
        self.notify_started = _joined(self.hooks("item_started"), self.disable)
        first, *after = self.hooks("item_finished") or (None,)
        self.notify_finished, self.notify_finished_after = first, _joined(after, self.disable)

    def hooks(self, name: str) -> list[Hook]:
        """The overridden hooks of a name, in the order of their calls."""
        return [getattr(self._instruments[place], name) for place in self._plan.get(name, ())]

    def notify(self, hook_name: str, record: BatchRecord | ItemRecord) -> None:
        """Call every hook of that name with the record."""
        for place in self._plan.get(hook_name, ()):
            hook = getattr(self._instruments[place], hook_name)
            try:
                hook(record)
            except Exception:  # telemetry must not change a result
                self.disable(hook)

    def takes(self, hook_name: str) -> bool:
        """True if an instrument overrides that hook."""
        return hook_name in self._plan

    def close(self) -> None:
        """Let go of what holds this object: no item follows, and a cycle would wait for the garbage collector."""
        self.notify_started = self.notify_finished = self.notify_finished_after = None

    def takes_inputs_cancelled(self) -> bool:
        """True if no instrument has to be called for each input that was never started."""
        per_item = {*self._plan.get("item_started", ()), *self._plan.get("item_finished", ())}
        return per_item <= set(self._plan.get("inputs_cancelled", ()))

    def disable(self, broken: Hook) -> None:
        """Stop calling the instrument of a hook that has raised, and log its exception."""
        instrument = getattr(broken, "__self__", None)
        name = type(instrument).__name__
        instrument_errors[name] = instrument_errors.get(name, 0) + 1
        left = {
            hook_name: tuple([place for place in places if self._instruments[place] is not instrument])
            for hook_name, places in self._plan.items()
        }
        self._set_plan({hook_name: places for hook_name, places in left.items() if places})
        _log.exception(
            "instrument %s raised in %s and is disabled for the rest of this batch; the items go on",
            name,
            getattr(broken, "__name__", "a hook"),
        )


def _joined(hooks: list[Hook], disable: Callable[[Hook], None]) -> Hook | None:
    """One function that calls all hooks: the only one itself, or None if there is none."""
    if len(hooks) < 2:
        return hooks[0] if hooks else None

    def call_all(record: Any) -> None:
        for hook in hooks:
            try:
                hook(record)
            except Exception:  # telemetry must not change a result
                disable(hook)

    return call_all


@lru_cache(maxsize=256)
def _plan_of(kinds: tuple[type, ...]) -> Plan:
    plan: dict[str, tuple[int, ...]] = {}
    for place in sorted(range(len(kinds)), key=lambda place: _phase_of(kinds[place])):
        for name in _overridden(kinds[place]):
            plan[name] = (place, *plan.get(name, ())) if name in _ENDS else (*plan.get(name, ()), place)
    return plan


_NO_INSTRUMENTS: Final = Dispatch(())


def _phase_of(kind: type) -> int:
    phase = getattr(kind, "phase", Phase.USER)
    if not isinstance(phase, Phase):
        raise TypeError(f"{kind.__name__}.phase must be a flowrt.engine.instrument.Phase, not {phase!r}")
    return phase


def _overridden(kind: type) -> tuple[str, ...]:
    """The hooks that a class of instruments overrides."""
    if any(getattr(kind, name, None) is None for name in HOOKS if name != "inputs_cancelled"):
        raise TypeError(f"{kind.__name__} is not an instrument: subclass flowrt.Instrument and pass an instance")
    return tuple(name for name in HOOKS if getattr(kind, name, None) not in (None, getattr(Instrument, name)))
