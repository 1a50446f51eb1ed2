"""Instruments: the one interface between the engine and everything that observes it.

An instrument overrides the hooks that it needs; a hook without an override is never called. Hooks run synchronously on
the loop's thread with the record itself, so they must be quick. An instrument that raises is disabled, logged once and
counted; the batch continues.
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
    """Order in which the instruments of a batch are called.

    Hooks for a start are called in this order and hooks for an end in reverse, as nested contexts are.
    """

    RECORDING = 0
    """Ends last, because its file contains the findings of the other instruments."""
    RECONCILIATION = 1
    """Ends after metrics and tracing, whose counts it compares."""
    METRICS = 2
    LIVE = 3
    LOGS = 4
    """Between metrics and tracing, so that the log events of an item have its trace id."""
    TRACING = 5
    LEDGER = 6
    """Ends first of the built-in instruments, because the others read the speedup, which needs its service time."""
    USER = 7
    SAMPLE = 8
    """Ends before all others, because a sampled speedup takes precedence over the ledger's."""


class Instrument:
    """Observer of batches. Subclass it, override the hooks you need, and pass an instance as `instruments=[...]`.

    Example:
        >>> class Count(Instrument):
        ...     finished = 0
        ...     def item_finished(self, item):
        ...         self.finished += 1
    """

    phase: ClassVar[Phase] = Phase.USER
    """Position of the instrument in the order of calls."""

    def batch_started(self, batch: BatchRecord) -> None:
        """The batch is about to pull its first item. Runs in the batch's context, which each item's context copies."""

    def item_started(self, item: ItemRecord) -> None:
        """The item was pulled and has a slot. Runs in the context in which the node will run."""

    def cache_looked_up(self, item: ItemRecord) -> None:
        """The item's input was looked up in the cache; `item.cached` is true if its output was there."""

    def attempt_started(self, item: ItemRecord) -> None:
        """An attempt after the first is about to start. Runs in the context in which the node will run."""

    def attempt_ended(self, item: ItemRecord) -> None:
        """An attempt has ended. The item has the attempt's status and outcome, and `finished_ns` is its end."""

    def retry_scheduled(self, item: ItemRecord) -> None:
        """An attempt has ended and the item will be retried; `item.retry` has the reason and the delay."""

    def hedge_ended(self, item: ItemRecord) -> None:
        """A hedge has ended; `item.hedge` has its outcome. The item is still running."""

    def item_failed(self, item: ItemRecord) -> None:
        """The item has failed or timed out for good, or is `uncancellable`; `item_finished` follows."""

    def item_finished(self, item: ItemRecord) -> None:
        """The item has a final status. Runs in the context of its last attempt, unless `item.uncancellable`."""

    def limit_changed(self, batch: BatchRecord) -> None:
        """The concurrency limit has changed; `batch.limit_change` has both limits and the reason."""

    def circuit_changed(self, batch: BatchRecord) -> None:
        """The node's circuit breaker has changed its state; `batch.circuit` has both states and the reason."""

    def pause_changed(self, batch: BatchRecord) -> None:
        """The batch was paused or resumed; `batch.paused_ns` is the start of the pause, or 0."""

    def inputs_cancelled(self, batch: BatchRecord) -> None:
        """Many inputs were cancelled without having been started; `batch.unstarted` is their number.

        If an instrument overrides `item_started` or `item_finished` and not this hook, those hooks are called for each
        of these inputs instead.
        """

    def batch_ended(self, batch: BatchRecord) -> None:
        """Every item that was pulled has finished."""


Hook = Callable[[Any], None]

Plan = Mapping[str, tuple[int, ...]]
"""The overridden hooks, each with the indices of its instruments in the order of the calls."""


class Dispatch:
    """Overridden hooks of a batch's instruments; looked up once for each combination of classes.

    `notify_started`, `notify_finished` and `notify_finished_after` are called for every item. Each is an instrument's
    own hook if there is only one, since a wrapper would be six more objects of each batch. So the caller must catch its
    exceptions and pass the function to `disable`.

    Args:
        instruments: Called in the order of their phases; instruments of one phase in the order given. The hooks for an
            end (`attempt_ended`, `retry_scheduled`, `item_failed`, `item_finished`, `batch_ended`) are called in
            reverse.

    Attributes:
        notify_started: Calls every `item_started` with an item; None if no instrument overrides it.
        notify_finished: The first `item_finished`, or None.
        notify_finished_after: Calls all `item_finished` after the first, or None.
        takes_attempts: True if an instrument overrides `attempt_ended`.
        takes_failures: True if an instrument overrides `item_failed`.
        active: True if an instrument overrides any hook.

    Raises:
        TypeError: An element is not an instrument, or its phase is not a `Phase`.
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
        self._set_plan(_plan_of(tuple([type(instrument) for instrument in self._instruments])))

    @classmethod
    def of(cls, instruments: tuple[Instrument, ...]) -> Dispatch:
        """Return the dispatch of a batch's instruments; all batches without instruments share one object.

        Raises:
            TypeError: As the constructor.
        """
        return cls(instruments) if instruments else _NO_INSTRUMENTS

    def _set_plan(self, plan: Plan) -> None:
        self._plan = plan
        self.active = bool(plan)
        self.takes_attempts = "attempt_ended" in plan
        self.takes_failures = "item_failed" in plan
        self.notify_started = self._joined("item_started", plan.get("item_started", ()))
        finished = plan.get("item_finished", ())
        self.notify_finished = self._joined("item_finished", finished[:1])
        self.notify_finished_after = self._joined("item_finished", finished[1:])

    def _joined(self, hook_name: str, places: tuple[int, ...]) -> Hook | None:
        """Return one function that calls the hooks at these places: the only one itself, or None if there is none."""
        if not places:
            return None
        if len(places) == 1:
            hook: Hook = getattr(self._instruments[places[0]], hook_name)
            return hook
        hooks = [getattr(self._instruments[place], hook_name) for place in places]

        def call_all(record: Any) -> None:
            for hook in hooks:
                try:
                    hook(record)
                except Exception:  # telemetry must not change a result
                    self.disable(hook)

        return call_all

    def notify(self, hook_name: str, record: BatchRecord | ItemRecord) -> None:
        """Call every hook of that name with the record."""
        for place in self._plan.get(hook_name, ()):
            hook = getattr(self._instruments[place], hook_name)
            try:
                hook(record)
            except Exception:  # telemetry must not change a result
                self.disable(hook)

    def takes(self, hook_name: str) -> bool:
        """Return whether an instrument overrides that hook."""
        return hook_name in self._plan

    def close(self) -> None:
        """Break the reference cycles through this object, which is needed no more."""
        self.notify_started = self.notify_finished = self.notify_finished_after = None

    def takes_inputs_cancelled(self) -> bool:
        """Return whether all instruments accept `inputs_cancelled` in place of calls for each unstarted input."""
        per_item = {*self._plan.get("item_started", ()), *self._plan.get("item_finished", ())}
        return per_item <= set(self._plan.get("inputs_cancelled", ()))

    def disable(self, broken: Hook) -> None:
        """Disable the instrument whose hook has raised, and log the exception that is being handled."""
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
    """Return the hooks that a class of instruments overrides."""
    if any(getattr(kind, name, None) is None for name in HOOKS if name != "inputs_cancelled"):
        raise TypeError(f"{kind.__name__} is not an instrument: subclass flowrt.Instrument and pass an instance")
    return tuple(name for name in HOOKS if getattr(kind, name, None) not in (None, getattr(Instrument, name)))
