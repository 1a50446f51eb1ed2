"""Caching: an input that was run before takes the cached output, and equal inputs of one batch run once."""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from flowrt.engine.cache_store import CacheStore, text_of
from flowrt.engine.instrument import Dispatch
from flowrt.engine.retry_queue import RetryQueue
from flowrt.model import BatchRecord, ItemRecord

__all__ = ["BatchCache"]

_log: Final = logging.getLogger("flowrt.cache")


class BatchCache:
    """Answers items of one batch from a cache.

    While an item runs, items with an equal input are parked in the retry queue, where they hold no slot. When it ends
    ok, they take its output; otherwise the first of them runs.

    Args:
        batch: The batch's record.
        store: The cache.
        queue: The retry queue, in which items are parked.
        dispatch: The instruments' hooks.
    """

    def __init__(self, batch: BatchRecord, store: CacheStore, queue: RetryQueue, dispatch: Dispatch) -> None:
        self._batch = batch
        self._store = store
        self._queue = queue
        self._dispatch = dispatch
        self._keys: dict[int, bytes] = {}  # keys of the running items, by index
        self._waiting: dict[bytes, list[ItemRecord]] = {}  # parked items, by the key of the running item
        self._answers: dict[int, str | None] = {}  # outputs for parked items, as JSON by index; None: not cacheable
        self._warned: set[str] = set()

    def parks(self, item: ItemRecord) -> bool:
        """Park an item while an equal input runs, and return whether that is so. The retry queue yields it later."""
        if item.index in self._keys or item.index in self._answers:
            return False
        key = self._store.key_of(item.input_data)
        if key is None:
            self._warn("inputs", item.input_data)
            return False
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(item)
            self._queue.park(item)
            return True
        self._waiting[key] = []
        self._keys[item.index] = key
        return False

    async def answer(self, item: ItemRecord) -> bool:
        """Set an item's output from the cache; returns False if there is none, so that the item has to run."""
        key = self._keys.get(item.index)
        if key is not None:
            text = await self._store.get(key)
        elif item.index in self._answers:
            text = self._answers.pop(item.index)
        else:
            return False
        if text is not None:
            item.output = json.loads(text)
            item.status = "ok"
            item.cached = True
            self._batch.cached += 1
        self._dispatch.notify("cache_looked_up", item)
        return text is not None

    def item_ended(self, item: ItemRecord) -> None:
        """Store the output of an item that has run, and release the items that are parked for it."""
        key = self._keys.pop(item.index, None)
        if key is None:
            return
        waiting = self._waiting.pop(key)
        if item.status != "ok":
            if waiting:
                self._keys[waiting[0].index] = key
                self._waiting[key] = waiting[1:]
                self._queue.release(waiting[:1])
            return
        text = text_of(item.output)
        if text is None:
            self._warn("outputs", item.output)
        elif not item.cached:
            self._store.put(key, text)
        self._answers |= {each.index: text for each in waiting}
        self._queue.release(waiting)

    def _warn(self, what: str, value: Any) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _log.warning(
                "%s of node %r are not cached where JSON does not represent them exactly, such as a %s",
                what,
                self._batch.node_id,
                type(value).__name__,
            )
