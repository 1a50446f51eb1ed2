"""The one seam between the engine and everything that watches it.

An instrument overrides the hooks it needs; a hook without an override is never called. Hooks run synchronously on the
loop's thread with the record itself, so they must be quick. An instrument that raises is disabled, logged once and
counted; the items go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
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
    """Its end is last: the file holds what all others found."""
    RECONCILIATION = 1
    """Its end comes after the counting and the tracing that it compares."""
    METRICS = 2
    LIVE = 3
    LOGS = 4
    """Inside metrics and outside tracing, so that the events of an item have its trace id."""
    TRACING = 5
    LEDGER = 6
    """Its end is the first of the built-in ones, which read the speedup that it finds."""
    USER = 7
    SAMPLE = 8
    """Its end is first of all: a sampled speedup wins over the ledger's."""


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


class Dispatch:
    """Overridden hooks of a batch's instruments, collected once when the batch starts.

    Each attribute named after a hook is a tuple of bound methods, replaced when an instrument is disabled.

    Attributes:
        notify_started: Calls every `item_started` with an item; None if there is none. It is called for every item.
        notify_finished: The same for `item_finished`.

    Args:
        instruments: Called in the order of their phases; those of one phase in the order given. The hooks that end
            something (`attempt_ended`, `retry_scheduled`, `item_failed`, `item_finished`, `batch_ended`) are called in
            reverse.

    Raises:
        TypeError: One of them is not an instrument, or its phase is not a `Phase`.
    """

    notify_started: Hook | None = None
    notify_finished: Hook | None = None
    batch_started: tuple[Hook, ...] = ()
    item_started: tuple[Hook, ...] = ()
    cache_looked_up: tuple[Hook, ...] = ()
    attempt_started: tuple[Hook, ...] = ()
    attempt_ended: tuple[Hook, ...] = ()
    retry_scheduled: tuple[Hook, ...] = ()
    hedge_ended: tuple[Hook, ...] = ()
    item_failed: tuple[Hook, ...] = ()
    item_finished: tuple[Hook, ...] = ()
    limit_changed: tuple[Hook, ...] = ()
    circuit_changed: tuple[Hook, ...] = ()
    pause_changed: tuple[Hook, ...] = ()
    inputs_cancelled: tuple[Hook, ...] = ()
    batch_ended: tuple[Hook, ...] = ()

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        given = tuple(instruments)
        if given:
            for name, places in _plan(tuple(map(type, given))):
                setattr(self, name, tuple([getattr(given[place], name) for place in places]))
            self._compile()

    def notify(self, hook_name: str, record: BatchRecord | ItemRecord) -> None:
        """Call every hook of that name with the record."""
        for hook in getattr(self, hook_name):
            try:
                hook(record)
            except Exception:  # telemetry must not change a result
                self._disable(hook)

    def takes_inputs_cancelled(self) -> bool:
        """True if no instrument has to be called for each input that was never started."""
        per_item = {getattr(hook, "__self__", None) for hook in (*self.item_started, *self.item_finished)}
        return per_item <= {getattr(hook, "__self__", None) for hook in self.inputs_cancelled}

    def _compile(self) -> None:
        self.notify_started = _joined(self.item_started, self._disable)
        self.notify_finished = _joined(self.item_finished, self._disable)

    def _disable(self, broken: Hook) -> None:
        instrument = getattr(broken, "__self__", None)
        name = type(instrument).__name__
        instrument_errors[name] = instrument_errors.get(name, 0) + 1
        for hook_name in HOOKS:
            left = tuple(h for h in getattr(self, hook_name) if getattr(h, "__self__", None) is not instrument)
            setattr(self, hook_name, left)
        self._compile()
        _log.exception(
            "instrument %s raised in %s and is disabled for the rest of this batch; the items go on",
            name,
            getattr(broken, "__name__", "a hook"),
        )


def _joined(hooks: tuple[Hook, ...], disable: Callable[[Hook], None]) -> Hook | None:
    """One function that calls all hooks, or None if there is none.

    One or two hooks, the usual case, are called without a loop: the interpreter specialises a call site that always
    calls the same function.
    """
    if not hooks:
        return None
    if len(hooks) > 2:

        def call_all(record: Any) -> None:
            for hook in hooks:
                try:
                    hook(record)
                except Exception:  # telemetry must not change a result
                    disable(hook)

        return call_all

    first, *others = hooks

    def call_first(record: Any) -> None:
        try:
            first(record)
        except Exception:  # telemetry must not change a result
            disable(first)

    if not others:
        return call_first
    second = others[0]

    def call_both(record: Any) -> None:
        try:
            first(record)
        except Exception:  # telemetry must not change a result
            disable(first)
        try:
            second(record)
        except Exception:  # telemetry must not change a result
            disable(second)

    return call_both


@lru_cache(maxsize=256)
def _plan(kinds: tuple[type, ...]) -> list[tuple[str, list[int]]]:
    """The hooks to call, each with the places of the instruments that override it, in the order of the calls."""
    plan: dict[str, list[int]] = {}
    for place in sorted(range(len(kinds)), key=lambda place: _phase_of(kinds[place])):
        for name in _overridden(kinds[place]):
            plan.setdefault(name, []).append(place)
    return [(name, places[::-1] if name in _ENDS else places) for name, places in plan.items()]


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
