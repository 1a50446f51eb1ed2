"""Store of the live page: active and recent batches, sampled twice a second by a separate thread.

A batch's loop makes two calls per batch and one per failed item. Everything else happens in the sampler's thread,
once for all open pages, and only while a batch or a page is active.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from flowrt.engine.instrument import Instrument, Phase
from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.live.groups import Groups
from flowrt.telemetry.live.process import ProcessView
from flowrt.telemetry.live.view import BatchView
from flowrt.telemetry.live.workers import WorkersView
from flowrt.telemetry.metrics.store import METRICS, Shard
from flowrt.telemetry.redaction import Redact, redact

__all__ = ["LIVE", "LiveInstrument", "LiveStore"]

_EVERY_S: Final = 0.5
_IDLE_EVERY_S: Final = 2.0
_MAX_RUNNING: Final = 24
_MAX_PER_NAME: Final = 6  # so that a thousand small batches of one name leave capacity for the others
_MAX_ENDED: Final = 10
_MAX_FAILED: Final = 5
_NEWS_S: Final = 10.0  # frames include an ended batch for this long, because slow clients skip frames
_JOIN_S: Final = 2.0

_log = logging.getLogger("flowrt.live")


class LiveStore:
    """Batches of this process for the live page.

    Attributes:
        frame: The latest state as JSON, for pages that are open.
    """

    def __init__(self) -> None:
        self.frame = b"{}"
        self._running: dict[BatchRecord, BatchView] = {}
        self._ended: deque[tuple[float, BatchView]] = deque(maxlen=_MAX_ENDED)
        self._failed: deque[tuple[float, BatchView]] = deque(maxlen=_MAX_FAILED)  # pushed out of `_ended` by others
        self._groups = Groups()
        self._process = ProcessView()
        self._workers = WorkersView()
        self._pages = 0
        self._sampler: tuple[threading.Thread, threading.Event, threading.Event] | None = None
        self._watchers: dict[object, Callable[[], None]] = {}
        self._lock = threading.RLock()  # the garbage collector may close a page while this thread holds it
        self._sampling = threading.Lock()
        self._wake = threading.Event()
        self._warned: set[str] = set()

    @property
    def served(self) -> bool:
        """True if an application serves the page."""
        return self._pages > 0

    # -- for servers ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Count an application that serves the page."""
        with self._lock:
            self._pages += 1

    def close(self, *, wait: bool = False) -> None:
        """Remove an application that served the page. With the last one, the history and the sampler's thread end.

        Args:
            wait: True to join the thread.
        """
        with self._lock:
            self._pages -= 1
            if self._pages:
                return
            sampler, self._sampler = self._sampler, None
            self._running.clear()
            self._ended.clear()
            self._failed.clear()
            self._groups.clear()
        if sampler is not None:
            thread, end, wake = sampler
            end.set()
            wake.set()
            if wait:
                thread.join(_JOIN_S)

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Register a callback for new values of `frame`.

        Args:
            wake: The callback. It runs in the sampler's thread and must neither block nor raise.

        Returns:
            A function that removes the callback.
        """
        key = object()
        with self._lock:
            self._watchers[key] = wake
            self._start()
        self._wake.set()

        def end() -> None:
            with self._lock:
                self._watchers.pop(key, None)

        return end

    def snapshot(self) -> bytes:
        """Return the current state as JSON: every batch, with its history."""
        with self._sampling:
            self._sample(detailed=True)
            if self._watchers:
                self.frame = self._make_frame()  # a page that got an older one after this would go back in time
            views = [*self._views(), *(view for _, view in self._recent())]
            return self._encode([{**view.state, "history": view.history()} for view in views])

    def find(self, batch_id: str) -> BatchView | None:
        """Return the view of an active batch, or None.

        Args:
            batch_id: Id of the batch.
        """
        with self._lock:
            return next((view for batch, view in self._running.items() if batch.batch_id == batch_id), None)

    # -- for the instrument, on the loop's thread ----------------------------------------------------------------------

    def start(self, batch: BatchRecord, redact: Redact = redact) -> BatchView | None:
        """Add a batch if its metrics are kept and the limits allow.

        Args:
            batch: The record of the batch.
            redact: Removes secrets from error texts; it must not raise.

        Returns:
            The batch's view, or None if the page shows the batch in its group only.
        """
        if not isinstance(batch.shard, Shard):
            return None
        with self._lock:
            if not self._pages:
                return None
            view = None
            same_name = sum(other.name == batch.name for other in self._running)
            if len(self._running) < _MAX_RUNNING and same_name < _MAX_PER_NAME:
                view = self._running[batch] = BatchView(batch, asyncio.get_running_loop(), redact)
            self._start()
        self._wake.set()
        return view

    def promote(self, batch: BatchRecord, redact: Redact = redact) -> BatchView | None:
        """Add a batch that has begun to fail, in place of one without failures.

        Args:
            batch: The record of a batch that `start` did not add.
            redact: Removes secrets from error texts; it must not raise.

        Returns:
            The batch's view, or None if all shown batches fail.
        """
        if not isinstance(batch.shard, Shard):
            return None
        with self._lock:
            if not self._pages:
                return None
            same_name = [other for other in self._running if other.name == batch.name]
            if len(same_name) >= _MAX_PER_NAME or len(self._running) >= _MAX_RUNNING:
                candidates = same_name if len(same_name) >= _MAX_PER_NAME else self._running
                healthy = (other for other in candidates if not self._running[other].failures.by_type)
                if (replaced := next(healthy, None)) is None:
                    return None
                self._running.pop(replaced).evicted = True
            view = self._running[batch] = BatchView(batch, asyncio.get_running_loop(), redact, partial=True)
        return view

    def end(self, batch: BatchRecord) -> None:
        """Add an ended batch to the totals of its name.

        Args:
            batch: The record of the batch.
        """
        if self._pages:
            self._groups.add_ended(batch)

    # -- the sampler's thread ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._sampler is None and self._pages:
            # new events for each thread: one that is still ending must not consume the signals of its successor
            end, wake = threading.Event(), threading.Event()
            thread = threading.Thread(target=self._run, args=(end, wake), name="flowrt-live", daemon=True)
            self._sampler, self._wake = (thread, end, wake), wake
            thread.start()

    def _run(self, end: threading.Event, wake: threading.Event) -> None:
        while True:
            wake.clear()  # before the checks, so that a later signal is not lost
            if end.is_set():
                return
            if self._running or self._watchers:
                try:
                    self.publish()
                except Exception:  # the next sample may succeed
                    self._warn_once("the live page cannot be updated: sampling failed")
                if self._running:
                    end.wait(_EVERY_S)  # not `wake`: with many batches a second, each would cause a sample
                else:
                    wake.wait(_IDLE_EVERY_S)
            else:
                wake.wait()

    def publish(self) -> None:
        """Take a sample and notify the watchers of the new frame."""
        watchers = list(self._watchers.values())
        with self._sampling:
            self._sample(detailed=bool(watchers))
            if watchers:
                self.frame = self._make_frame()
        for wake in watchers:
            wake()

    def _sample(self, *, detailed: bool) -> None:
        self._process.sample()
        self._workers.sample()
        for batch, view in self._running.copy().items():  # one step, unlike a list of pairs
            over = view.over
            try:
                view.sample(detailed=detailed)
            except Exception:  # the page keeps the batch's last state, if there is one
                self._warn_once(f"batch {batch.name} cannot be shown: sampling it failed")
            if over:
                with self._lock:
                    if self._running.pop(batch, None) is not None and view.state:
                        if len(self._ended) == self._ended.maxlen and self._ended[0][1].failures.by_type:
                            self._failed.append(self._ended[0])
                        self._ended.append((time.monotonic(), view))

    def _warn_once(self, message: str) -> None:
        """Log the current exception, once per message: there are two samples a second."""
        if message not in self._warned and len(self._warned) < _MAX_ENDED:
            self._warned.add(message)
            _log.warning("%s", message, exc_info=True)

    def _make_frame(self) -> bytes:
        news = [view for at_s, view in self._recent() if time.monotonic() - at_s < _NEWS_S]
        return self._encode([view.state for view in (*self._views(), *news)])

    def _encode(self, batches: list[dict[str, Any]]) -> bytes:
        overview = self._groups.overview(METRICS.active)
        workers, workers_left = self._workers.rows()
        state = {
            "process": self._process.state(),
            "workers": workers,
            "workers_left": workers_left,
            "batches": batches,
            "groups": overview.rows,
            "groups_left": overview.left,
            "active": overview.active,
            "active_names": overview.active_names,
        }
        # ASCII only, json's default: no user text can break a line or the encoding
        return json.dumps(state, separators=(",", ":")).encode()

    def _views(self) -> list[BatchView]:
        return [view for view in list(self._running.values()) if view.state]

    def _recent(self) -> list[tuple[float, BatchView]]:
        with self._lock:
            return [*self._failed, *self._ended]


class LiveInstrument(Instrument):
    """Instrument that adds one batch to the live page.

    Its phase is after that of the metrics instrument, whose shard it reads.

    Args:
        store: The store of the page.
        redact: Removes secrets from error texts; it must not raise.
    """

    phase = Phase.LIVE

    def __init__(self, store: LiveStore, redact: Redact = redact) -> None:
        self._store = store
        self._redact = redact
        self._view: BatchView | None = None
        self._promoted = False

    def batch_started(self, batch: BatchRecord) -> None:
        """Add the batch to the page."""
        self._view = self._store.start(batch, self._redact)

    def item_failed(self, item: ItemRecord) -> None:
        """Add the failed item to the batch's failures."""
        if item.status != "failed" and item.status != "timed_out":
            return
        if (self._view is None or self._view.evicted) and not self._promoted:
            self._promoted = True  # one attempt: with many failing batches, each failure would search in vain
            self._view = self._store.promote(item.batch, self._redact)
        if self._view is not None:
            self._view.failures.add(item)

    def batch_ended(self, batch: BatchRecord) -> None:
        """Fix the final counts."""
        if self._view is not None:
            self._view.end()
        self._store.end(batch)


LIVE: Final = LiveStore()
"""Store of this process."""
