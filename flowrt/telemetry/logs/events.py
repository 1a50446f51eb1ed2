"""Log events, sent through structlog if the process configured it, else through the standard logger `flowrt`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import structlog

from flowrt._util.clock import watches
from flowrt.attribution.explanation import why_overstated
from flowrt.engine.instrument import Instrument, Phase
from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.logs.batch_fields import ended_fields, started_fields
from flowrt.telemetry.logs.direct import DIRECT, LEVELS
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.redaction import Redact, redact

__all__ = ["Allowance", "ItemLogInstrument", "LogInstrument", "is_listened_to", "log_event", "renew_allowances"]

_logger = logging.getLogger("flowrt")
_logger.addHandler(logging.NullHandler())  # a library prints nothing unless the application configures logging

_QUIET: Final = ("ok", "resumed", "cancelled")  # cancelling a batch is one event, not one per item
_PROGRESS_S: Final = 10.0
_STALLED_S: Final = 60.0
_BURST: Final = 20  # events of one kind that may be logged at once; after that one per second
_REFILL_NS: Final = 1_000_000_000
_MOST_ALLOWANCES: Final = 1_000  # of a loop: the names of batches may be without end


def log_event(level: str, event: str, **fields: Any) -> None:
    """Log one event. It never raises: an event that cannot be logged is counted as dropped.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        event: The event's name, for instance `batch.started`.
        fields: The event's fields; values may be of any type.
    """
    try:
        if DIRECT and (direct := DIRECT[0]).is_in_force():
            direct.log(level, {**fields, "event": event})
            return
        if structlog.is_configured():
            result = getattr(_structlog(), level)(event, **fields)
            if asyncio.iscoroutine(result):  # of a custom wrapper with async methods
                _finish(result)
            return
        number = LEVELS[level]
        if _logger.isEnabledFor(number):
            text = " ".join(f"{key}={_one_line(value)}" for key, value in fields.items())
            _logger.log(number, "%s %s", event, text)
    except Exception:  # for instance a sink that prints to a closed pipe
        METRICS.dropped("logs", "export_error")


def _log_batch(level: str, event: str, fields_of: Callable[[BatchRecord], str], batch: BatchRecord) -> None:
    """Log an event of a batch, as `log_event` does.

    Args:
        level: As `log_event`.
        event: As `log_event`.
        fields_of: Returns the event's fields as JSON, without braces.
        batch: The batch's record.
    """
    try:
        if not (DIRECT and (direct := DIRECT[0]).is_in_force() and direct.log_text(level, event, fields_of, batch)):
            log_event(level, event, **json.loads(f"{{{fields_of(batch)}}}"))
    except Exception:  # of a span that has no ids
        METRICS.dropped("logs", "export_error")


def _structlog() -> Any:
    """Logger with synchronous methods, as the process configured structlog."""
    wrapper = structlog.get_config()["wrapper_class"]
    if isinstance(wrapper, type) and issubclass(wrapper, structlog.stdlib.AsyncBoundLogger):
        # Its methods return coroutines that an instrument cannot await, and it needs a running loop. Use the logger
        # that it wraps.
        wrapper = wrapper._bound_logger_factory  # noqa: SLF001  # no public name without an instance
        return structlog.wrap_logger(None, wrapper_class=wrapper, logger_factory_args=("flowrt",))
    return structlog.get_logger("flowrt")


_unfinished: Final[set[asyncio.Task[Any]]] = set()  # the loop itself keeps only weak references to tasks


def _finish(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run the coroutine of an async logging method in a task.

    Raises:
        RuntimeError: No loop runs in this thread.
    """
    try:
        task = asyncio.get_running_loop().create_task(coroutine)
    except RuntimeError:
        coroutine.close()
        raise
    _unfinished.add(task)
    task.add_done_callback(_finished)


def _finished(task: asyncio.Task[Any]) -> None:
    _unfinished.discard(task)
    if task.cancelled() or task.exception() is not None:
        METRICS.dropped("logs", "export_error")


_Allowances: TypeAlias = "dict[tuple[str, str], Allowance]"
"""Allowances of one loop, by the batch's name and the event."""

# Batches of one name share them: a service with a small batch for each request would otherwise log every failed item.
_allowances: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Allowances]] = WeakKeyDictionary()


def _allowance(event: str, item: ItemRecord) -> Allowance:
    """Return the allowance for an event in batches of this name on this loop."""
    allowances = _allowances.setdefault(asyncio.get_running_loop(), {})
    key = item.batch.name, event
    if (allowance := allowances.get(key)) is None:
        if len(allowances) >= _MOST_ALLOWANCES:
            del allowances[next(iter(allowances))]
        allowance = allowances[key] = Allowance(item.finished_ns)
    return allowance


def renew_allowances() -> None:
    """Let warnings about items be logged as if none had been, as tests that capture them expect."""
    _allowances.clear()


def is_listened_to(level: str) -> bool:
    """True if an event of this level would reach a logger that is enabled and has a handler."""
    if DIRECT and (direct := DIRECT[0]).is_in_force():
        return direct.least <= LEVELS[level]
    if structlog.is_configured():
        try:
            bound = _structlog().bind()
            kind = type(bound)  # not the instance: some wrappers turn any attribute into a method that logs
            probe = getattr(kind, "is_enabled_for", None) or getattr(kind, "isEnabledFor", None)
            return probe is None or bool(probe(bound, LEVELS[level]))
        except Exception:  # the wrapped logger knows no levels
            return True
    return _logger.isEnabledFor(LEVELS[level]) and _has_real_handler(_logger)


class LogInstrument(Instrument):
    """Logs the events of one batch. Each batch gets its own.

    Args:
        redact: Removes secrets from error texts; it must not raise.
        part: True if the batch runs within an item: its start and end are logged at DEBUG, its progress not at all.
    """

    phase = Phase.LOGS

    def __init__(self, redact: Redact = redact, *, part: bool = False) -> None:
        self._redact = redact
        self._part = part
        self._timer: asyncio.TimerHandle | None = None
        self._suppressed: dict[str, int] = {}  # by event: warnings of this batch since its last logged one
        self._progress: tuple[int, float] = (0, 0.0)
        self._stalled = False
        self._paused_ns = 0

    def batch_started(self, batch: BatchRecord) -> None:
        """Log `batch.started`."""
        if self._part:
            _log_batch("debug", "batch.started", started_fields, batch)
            return
        _log_batch("info", "batch.started", started_fields, batch)
        loop = asyncio.get_running_loop()
        self._progress = (0, loop.time())
        self._timer = loop.call_later(_PROGRESS_S, self._report, batch, loop)

    def retry_scheduled(self, item: ItemRecord) -> None:
        """Log `item.retry`, rate-limited."""
        self._warn("item.retry", item, reason=item.retry.reason, delay_s=round(item.retry.delay_ns / 1e9, 6))

    def limit_changed(self, batch: BatchRecord) -> None:
        """Log the new concurrency limit, with the reason if the limit is adaptive."""
        change = batch.limit_change
        why = {} if change is None or change.new != batch.limit else {"before": change.old, "reason": change.reason}
        log_event("info", "limit.changed", **_about(batch), limit=batch.limit, **why)

    def circuit_changed(self, batch: BatchRecord) -> None:
        """Log the circuit breaker's new state."""
        change = batch.circuit
        level = "warning" if change.new == "open" else "info"
        log_event(level, "circuit.changed", **_about(batch), before=change.old, state=change.new, reason=change.reason)

    def pause_changed(self, batch: BatchRecord) -> None:
        """Log `pause.started`, and `pause.ended` with its duration."""
        if batch.paused_ns:
            self._paused_ns = batch.paused_ns
            log_event("warning", "pause.started", **_about(batch), **_counts(batch), inflight=batch.inflight)
        else:
            duration_s = round((batch.clock() - self._paused_ns) / 1e9, 6)
            log_event("info", "pause.ended", **_about(batch), duration_s=duration_s)

    def item_failed(self, item: ItemRecord) -> None:
        """Log a failure, rate-limited."""
        state = item.status
        if state == "ok" or state == "resumed":  # one of the item's attempts won, and its hedge does not end
            self._warn("item.uncancellable", item)
        else:
            self._warn("item.timed_out" if state == "timed_out" else "item.failed", item)

    def _warn(self, event: str, item: ItemRecord, **more: Any) -> None:
        """Log a warning about an item, or count it as suppressed if the allowance is used up."""
        if not _allowance(event, item).take(item.finished_ns):
            self._suppressed[event] = self._suppressed.get(event, 0) + 1
            return
        fields = {**_about_item(item), **more}
        if item.error_type is not None:
            fields |= {"error_type": item.error_type, "error": self._redact(item.error or "")}
        if suppressed := self._suppressed.pop(event, 0):
            fields["suppressed"] = suppressed
        if item.uncancellable:
            fields["uncancellable"] = True
        log_event("warning", event, **fields)

    def batch_ended(self, batch: BatchRecord) -> None:
        """Log `batch.completed` with the totals."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        suppressed = sum(self._suppressed.values())
        fields_of = partial(ended_fields, suppressed=suppressed) if suppressed else ended_fields
        _log_batch("debug" if self._part else "info", "batch.completed", fields_of, batch)
        speedup = batch.speedup
        if speedup is not None and speedup.diverges:
            figures = {name: getattr(speedup, name) for name in ("claimed", "measured", "low", "high")}
            known = {name: round(value, 2) for name, value in figures.items() if value is not None}
            why = why_overstated(batch, speedup)
            fields = {**_about(batch), **known, "method": speedup.method, "reason": why}
            log_event("warning" if _did_run(batch) else "info", "speedup.overstated", **fields)

    @watches
    def _report(self, batch: BatchRecord, loop: asyncio.AbstractEventLoop) -> None:
        now, done = loop.time(), batch.completed
        if done != self._progress[0]:
            self._progress = (done, now)
            self._stalled = False
            log_event("info", "batch.progress", **_about(batch), **_counts(batch), expected=batch.expected)
        elif not self._stalled and batch.inflight and now - self._progress[1] >= _STALLED_S:
            self._stalled = True
            log_event(
                "warning",
                "batch.stalled",
                **_about(batch),
                idle_s=round(now - self._progress[1], 3),
                inflight=batch.inflight,
                completed=done,
            )
        self._timer = loop.call_later(_PROGRESS_S, self._report, batch, loop)


class WarningLogInstrument(LogInstrument):
    """Logs the warnings of a batch within an item. Nothing listens at DEBUG, so its start and end are not logged."""

    batch_started = Instrument.batch_started  # not overridden, and so never called
    batch_ended = Instrument.batch_ended


class ItemLogInstrument(LogInstrument):
    """Logs `item.completed` too, at DEBUG."""

    def item_finished(self, item: ItemRecord) -> None:
        """Log `item.completed`."""
        if item.status in _QUIET and not (item.status == "cancelled" and item.uncancellable):
            log_event("debug", "item.completed", **_about_item(item))


class Allowance:
    """Token bucket for events of one kind: a burst, then one per second.

    Args:
        now_ns: The time, by a monotonic clock.

    Attributes:
        suppressed: Number of events that were refused.
    """

    __slots__ = ("_left", "_refilled_ns", "suppressed")

    def __init__(self, now_ns: int) -> None:
        self._left = _BURST
        self._refilled_ns = now_ns
        self.suppressed = 0

    def take(self, now_ns: int) -> bool:
        """Return True if an event may be logged now."""
        refill = (now_ns - self._refilled_ns) // _REFILL_NS
        if refill > 0:
            self._left = min(_BURST, self._left + refill)
            self._refilled_ns += refill * _REFILL_NS
        if self._left <= 0:
            self.suppressed += 1
            return False
        self._left -= 1
        return True


def _did_run(batch: BatchRecord) -> bool:
    """Return False if waits outside the items took most of the time: then faster items would hardly gain anything."""
    ledger = batch.ledger
    return ledger is None or 2 * ledger.running_ns >= batch.finished_ns - batch.started_ns


def _about(batch: BatchRecord) -> dict[str, Any]:
    return {"batch": batch.name, "batch_id": batch.batch_id, "node": batch.node_id}


def _counts(batch: BatchRecord) -> dict[str, Any]:
    return {"completed": batch.completed, **{status: count for status, count in batch.counts.items() if count}}


def _about_item(item: ItemRecord) -> dict[str, Any]:
    started_ns = item.started_ns
    fields: dict[str, Any] = {
        **_about(item.batch),
        "item_index": item.index,
        "attempt": item.attempts,
        "status": item.status,
        "duration_s": round((item.finished_ns - started_ns) / 1e9, 6) if started_ns else 0.0,
    }
    if item.ids:
        fields["trace_id"] = item.trace_id
        fields["span_id"] = item.span_id
    return fields


def _one_line(value: Any) -> str:
    if isinstance(value, str) and value.isascii() and value.replace("_", "a").isalnum():
        return value
    return json.dumps(value, default=repr)


def _has_real_handler(logger: logging.Logger) -> bool:
    at: logging.Logger | None = logger
    while at is not None:
        for handler in at.handlers:
            if not isinstance(handler, logging.NullHandler):
                return True
        at = at.parent if at.propagate else None
    return False
