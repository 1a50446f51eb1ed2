"""Outcomes: every transition of an item's record to a status, and the steps that follow a final status."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import Callable
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, Final

import flowrt.errors
from flowrt.engine.instrument import Dispatch
from flowrt.engine.item_task import clear_frames_later
from flowrt.errors import error_text, error_type_of
from flowrt.model import BatchRecord, BatchResult, ItemRecord, Slot
from flowrt.model.node import NEVER_RUN, NodeResult, refuse_output

__all__ = [
    "PLAIN",
    "Deliver",
    "Finisher",
    "RejectedInputError",
    "Settle",
    "as_source_error",
    "cancel",
    "cancel_retry",
    "in_turn",
    "mark_not_journaled",
    "set_timed_out",
    "settle",
    "settle_exception",
    "settle_raised",
    "settle_value",
]

_ENGINE: Final = f"{Path(__file__).parent}{os.sep}"
_MACHINERY: Final = tuple(
    f"{Path(file).parent}{os.sep}" for file in (asyncio.__file__, concurrent.futures.__file__, flowrt.errors.__file__)
)


Deliver = Callable[[BatchResult], None]
"""Receives each finished result. If admission is limited, the consumer calls `admission.release()` for each one."""

Settle = Callable[[ItemRecord, Any], None]
"""Records the value of an attempt on the item."""


PLAIN: Final[frozenset[type]] = frozenset({NoneType, bool, int, float, str, bytes, dict, list, tuple})
"""Types whose values are outputs, so that they need no further checks."""

_NO_LOOP: Final = ("no running event loop", "There is no current event loop in thread")


class RejectedInputError(Exception):
    """The input is a `Rejected`: it could not be read, and no attempt is made."""


def settle_value(item: ItemRecord, value: Any) -> None:
    """Record the value of a function: the output, unless it is a NodeResult."""
    if type(value) in PLAIN:  # nearly always
        item.status = "ok"
        item.output = value
    elif isinstance(value, NodeResult):
        settle(item, value)
    elif type(value) in NEVER_RUN:
        settle_exception(item, refuse_output(item.batch.node_id, value))
    else:
        item.status = "ok"
        item.output = value


def settle(item: ItemRecord, result: Any) -> None:
    """Record the result of a node."""
    if type(result) is NodeResult and result.success and type(result.output) not in NEVER_RUN:
        item.status = "ok"
        item.output = result.output
        if result._metadata is not None:  # noqa: SLF001  # the property would make a dict for every item
            item._metadata = result._metadata  # noqa: SLF001  # avoids a dict for every item
    else:
        _settle_other(item, result)


def settle_exception(item: ItemRecord, exc: BaseException) -> None:
    """Record an attempt's exception, without the engine's frames in its traceback."""
    item.status = "failed"
    if isinstance(exc, RejectedInputError):
        rejected = item.input_data
        item.input_data = rejected.input_data
        item.error = rejected.error
        item.error_type = rejected.error_type
        return
    text = error_text(exc)
    if type(exc) is RuntimeError and text.startswith(_NO_LOOP):
        text += ": a plain function runs in a worker thread; make it `async def` to run it on the event loop"
    exc.__traceback__ = _users_part(exc.__traceback__)
    values = {"error": text, "error_type": type(exc).__name__, "exception": exc}
    item._sparse = values if item._sparse is None else {**item._sparse, **values}  # noqa: SLF001  # the engine's own


def settle_raised(item: ItemRecord, exc: BaseException, slot: Slot) -> None:
    """Record an attempt's exception that the worker has caught in the item's task.

    The traceback begins with the worker's frame, which holds the batch. Later frames may hold that frame as their
    caller, even after `settle_exception` has cut it from the traceback, so it is cleared when its task has ended.
    Before Python 3.12 the frame of an awaited coroutine has no caller.

    Args:
        item: The item.
        exc: The attempt's exception.
        slot: The item's slot.
    """
    own = exc.__traceback__
    called = None if own is None else own.tb_next
    if own is not None and called is not None and called.tb_frame.f_back is not None:
        clear_frames_later(own.tb_frame, slot.task, slot.starter)
    settle_exception(item, exc)


def _settle_other(item: ItemRecord, result: Any) -> None:
    if not isinstance(result, NodeResult):
        item.status = "failed"
        item.error = (
            f"node {item.batch.node_id!r} returned {type(result).__name__}, not a NodeResult: "
            "return NodeResult(success=True, output=...)"
        )
        item.error_type = "TypeError"
        item.exception = TypeError(item.error)
        return
    if type(result.output) in NEVER_RUN:
        settle_exception(item, refuse_output(item.batch.node_id, result.output))
        return
    item.output = result.output
    item._metadata = result.metadata  # noqa: SLF001  # the record is the engine's
    if result.success:  # an instance of a subclass
        item.status = "ok"
        return
    item.status = "failed"
    item.error = error_text(result.error)
    item.error_type = error_type_of(result.error)
    if isinstance(result.error, BaseException):
        item.exception = result.error


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the user's first frame on; if it has none, all frames but the worker's."""
    at = traceback
    while at is not None and at.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        at = at.tb_next
    if at is None and traceback is not None:
        return traceback.tb_next  # the worker's frame holds the whole batch
    return at


def as_source_error(exc: BaseException) -> BaseException:
    """Return what a batch raises for an exception of its source.

    The traceback loses the engine's frames, which hold the whole batch. A CancelledError becomes the cause of a
    RuntimeError: raised bare, it would read as a cancellation of the caller, whose task, and a TaskGroup around it,
    would end quietly.
    """
    traceback = exc.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_ENGINE):
        traceback = traceback.tb_next
    exc = exc.with_traceback(traceback)
    if not isinstance(exc, asyncio.CancelledError):
        return exc
    own = RuntimeError("the source raised CancelledError itself: its batch was not cancelled")
    own.__cause__ = exc
    return own


def cancel(item: ItemRecord, reason: str) -> None:
    """Record that an item was cancelled.

    Args:
        item: The item.
        reason: Its `error`.
    """
    item.status = "cancelled"
    item.error = reason
    item.error_type = "CancelledError"


def cancel_retry(item: ItemRecord, reason: str) -> None:
    """Record that a granted retry was cancelled; the error names the outcome of the last attempt."""
    cancel(item, f"not tried again: {reason}; attempt {item.attempts} ended in {item.error_type}: {item.error}")


def mark_not_journaled(item: ItemRecord, reason: str, error: BaseException | None = None) -> None:
    """Record that an item is not in the journal. A later run repeats the item, so its output is withheld now."""
    cancel(item, reason)
    item.output = item._metadata = None  # noqa: SLF001  # the record is the engine's
    item.error_type = "JournalDiskError" if error is None else type(error).__name__
    item.exception = error


def set_timed_out(item: ItemRecord, timeout_s: float | None) -> None:
    """Record that an attempt ran out of time.

    Args:
        item: The item.
        timeout_s: The time limit, in seconds.
    """
    item.status = "timed_out"
    item.output = None
    item.error = f"the attempt took longer than item_timeout={timeout_s:g} s"
    item.error_type = "TimeoutError"
    item.exception = TimeoutError(item.error)


class Finisher:
    """Finishes items: counts them, notifies the instruments and delivers the results.

    Args:
        batch: The batch's record.
        dispatch: The instruments' hooks.
        deliver: Receives the results.
        item_ended: Called after each item; None without a retry queue, which ends with the last item.
        not_ok: Called after each item that ended neither `ok` nor `resumed`; None unless the batch fails fast.
    """

    __slots__ = ("_after", "_counts", "_deliver", "_dispatch")

    def __init__(
        self,
        batch: BatchRecord,
        dispatch: Dispatch,
        deliver: Deliver,
        item_ended: Callable[[ItemRecord], None] | None,
        not_ok: Callable[[ItemRecord], None] | None,
    ) -> None:
        self._counts = batch.counts
        self._dispatch = dispatch if dispatch.active else None
        self._deliver = deliver
        self._after = _following(item_ended, not_ok)

    def finish(self, item: ItemRecord) -> None:
        """Finish an item whose status is final.

        Args:
            item: The item; its outcome and times are set.
        """
        state = item.status
        self._counts[state] += 1
        if (dispatch := self._dispatch) is not None:
            if state != "ok" or item.attempts > 1 or dispatch.takes_attempts:
                if dispatch.takes_attempts and item.started_ns and item.attempts:
                    dispatch.notify("attempt_ended", item)
                if dispatch.takes_failures and (state == "failed" or state == "timed_out" or item.uncancellable):
                    dispatch.notify("item_failed", item)
            notify_after = dispatch.notify_finished_after  # read first, since `disable` replaces it
            if (notify_finished := dispatch.notify_finished) is not None:
                try:
                    notify_finished(item)
                except Exception:  # telemetry must not change a result
                    dispatch.disable(notify_finished)
            if notify_after is not None:
                try:
                    notify_after(item)
                except Exception:  # telemetry must not change a result
                    dispatch.disable(notify_after)
        self._deliver(item)
        if (after := self._after) is not None:
            after(item)


def _following(
    item_ended: Callable[[ItemRecord], None] | None, not_ok: Callable[[ItemRecord], None] | None
) -> Callable[[ItemRecord], None] | None:
    """Return the function to call after an item was delivered, if any."""
    if not_ok is None:
        return item_ended

    def after(item: ItemRecord) -> None:
        if item_ended is not None:
            item_ended(item)
        if item.status != "ok" and item.status != "resumed":
            not_ok(item)

    return after


def in_turn(first: Callable[[ItemRecord], None], second: Callable[[ItemRecord], None]) -> Callable[[ItemRecord], None]:
    """Return a function that calls both functions."""

    def both(item: ItemRecord) -> None:
        first(item)
        second(item)

    return both
