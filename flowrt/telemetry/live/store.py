"""The live page's data: which batches there are, looked at twice a second from a thread of its own.

A batch's loop is asked for two calls per batch and one per failed item. Everything else happens in the sampler's
thread, once for however many pages are open, and only while a batch runs or somebody looks.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from flowrt.engine.instrument import Instrument
from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.live.process import ProcessView
from flowrt.telemetry.live.view import BatchView
from flowrt.telemetry.metrics.store import Shard

__all__ = ["LIVE", "LiveInstrument", "LiveStore"]

_EVERY_S: Final = 0.5
_IDLE_EVERY_S: Final = 2.0
_MOST_RUNNING: Final = 20
_MOST_ENDED: Final = 10
_NEWS_S: Final = 10.0  # a batch that has ended is in each frame for that long: slow readers miss frames
_JOIN_S: Final = 2.0

_log = logging.getLogger("flowrt.live")


class LiveStore:
    """What the live page shows of this process."""

    def __init__(self) -> None:
        self.frame = b"{}"
        self._running: dict[BatchRecord, BatchView] = {}
        self._ended: deque[tuple[float, BatchView]] = deque(maxlen=_MOST_ENDED)
        self._process = ProcessView()
        self._pages = 0
        self._sampler: tuple[threading.Thread, threading.Event, threading.Event] | None = None
        self._watchers: dict[object, Callable[[], None]] = {}
        self._lock = threading.RLock()  # a page that is collected as garbage is closed wherever that happens
        self._looking = threading.Lock()
        self._stir = threading.Event()
        self._complained: set[str] = set()

    @property
    def served(self) -> bool:
        """Whether there is a page on which a batch could be shown."""
        return self._pages > 0

    # -- for servers ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """There is one page more."""
        with self._lock:
            self._pages += 1

    def close(self, *, wait: bool = False) -> None:
        """There is one page less; with the last one, the past is forgotten and the thread ends.

        Args:
            wait: Whether to wait for the thread's end.
        """
        with self._lock:
            self._pages -= 1
            if self._pages:
                return
            sampler, self._sampler = self._sampler, None
            self._running.clear()
            self._ended.clear()
        if sampler is not None:
            thread, end, stir = sampler
            end.set()
            stir.set()
            if wait:
                thread.join(_JOIN_S)

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have a function called from the sampler's thread whenever `frame` is a new one.

        Args:
            wake: The function, which must be quick and not raise.

        Returns:
            A function that ends it.
        """
        key = object()
        with self._lock:
            self._watchers[key] = wake
            self._start()
        self._stir.set()

        def end() -> None:
            with self._lock:
                self._watchers.pop(key, None)

        return end

    def snapshot(self) -> bytes:
        """The state as of now, as JSON: every batch with its past."""
        with self._looking:
            self._look(detailed=True)
            views = [*self._views(), *(view for _, view in self._past())]
            return _encode(self._process.state(), [{**view.state, "history": view.history()} for view in views])

    # -- for the instrument, on the loop's thread ----------------------------------------------------------------------

    def start(self, batch: BatchRecord) -> BatchView | None:
        """Show a batch from now on, if its metrics are kept and there is room.

        Args:
            batch: Its record.
        """
        if not isinstance(batch.shard, Shard):
            return None
        with self._lock:
            if not self._pages or len(self._running) >= _MOST_RUNNING:
                return None
            view = self._running[batch] = BatchView(batch)
            self._start()
        self._stir.set()
        return view

    # -- the sampler's thread ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._sampler is None and self._pages:
            # a signal of its own: a thread that is about to end takes none of the next one's calls
            end, stir = threading.Event(), threading.Event()
            thread = threading.Thread(target=self._run, args=(end, stir), name="flowrt-live", daemon=True)
            self._sampler, self._stir = (thread, end, stir), stir
            thread.start()

    def _run(self, end: threading.Event, stir: threading.Event) -> None:
        while True:
            stir.clear()  # first, so that a call that comes from here on is heard
            if end.is_set():
                return
            if self._running or self._watchers:
                try:
                    self.tell()
                except Exception:  # the next look may do better
                    self._complain("the live page cannot be brought up to date")
                if self._running:
                    end.wait(_EVERY_S)  # and not until the next batch starts: there may be many a second
                else:
                    stir.wait(_IDLE_EVERY_S)
            else:
                stir.wait()

    def tell(self) -> None:
        """Look, and give everybody who watches a new frame."""
        watchers = list(self._watchers.values())
        with self._looking:
            self._look(detailed=bool(watchers))
            if watchers:
                self.frame = self._make_frame()
        for wake in watchers:
            wake()

    def _look(self, *, detailed: bool) -> None:
        self._process.look()
        for batch, view in list(self._running.items()):
            over = view.over
            try:
                view.sample(detailed=detailed)
            except Exception:  # it is shown as it last was, if at all
                self._complain(f"batch {batch.name} cannot be shown")
            if over:
                with self._lock:
                    if self._running.pop(batch, None) is not None and view.state:
                        self._ended.append((time.monotonic(), view))

    def _complain(self, what: str) -> None:
        """Log an exception, once: there are two looks a second."""
        if what not in self._complained and len(self._complained) < _MOST_ENDED:
            self._complained.add(what)
            _log.warning("%s", what, exc_info=True)

    def _make_frame(self) -> bytes:
        news = [view for at_s, view in self._past() if time.monotonic() - at_s < _NEWS_S]
        return _encode(self._process.state(), [view.state for view in (*self._views(), *news)])

    def _views(self) -> list[BatchView]:
        return [view for view in list(self._running.values()) if view.state]

    def _past(self) -> list[tuple[float, BatchView]]:
        with self._lock:
            return list(self._ended)


class LiveInstrument(Instrument):
    """Shows one batch on the live page.

    It must come after the instrument that keeps the metrics, whose shard it reads.

    Args:
        store: Where it is shown.
    """

    def __init__(self, store: LiveStore) -> None:
        self._store = store
        self._view: BatchView | None = None

    def batch_started(self, batch: BatchRecord) -> None:
        """Show it."""
        self._view = self._store.start(batch)

    def item_failed(self, item: ItemRecord) -> None:
        """Note the failure."""
        if self._view is not None and (item.status == "failed" or item.status == "timed_out"):
            self._view.failures.note(item)

    def batch_ended(self, batch: BatchRecord) -> None:  # noqa: ARG002
        """Fix the final counts."""
        if self._view is not None:
            self._view.end()


LIVE: Final = LiveStore()
"""The process's own."""


def _encode(process: dict[str, Any], batches: list[dict[str, Any]]) -> bytes:
    # ASCII alone, as json does it: no text of a user's breaks a line or the encoding
    return json.dumps({"process": process, "batches": batches}, separators=(",", ":")).encode()
