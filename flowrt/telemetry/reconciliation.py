"""The audit: at the end of a batch, what came in, what came out, the counters and the spans are the same number."""

from __future__ import annotations

from flowrt.engine.instrument import Instrument
from flowrt.model import BatchRecord
from flowrt.telemetry.logs.events import log_event
from flowrt.telemetry.metrics.store import METRICS, MetricsStore, Shard
from flowrt.telemetry.tracing.instrument import BatchTracing

__all__ = ["Reconciliation"]


class Reconciliation(Instrument):
    """Checks one batch; it must be the first of its instruments, as its end is then the last to be told.

    Args:
        name: The batch's name among the metrics.
        tracing: What traces the batch, if anything does.
        store: Where the result is counted.
    """

    def __init__(self, name: str, tracing: BatchTracing | None, store: MetricsStore = METRICS) -> None:
        self._name = name
        self._tracing = tracing
        self._store = store

    def batch_ended(self, batch: BatchRecord) -> None:
        """Compare, and say so where it does not add up."""
        shard = batch.shard
        if not isinstance(shard, Shard):
            return
        said = {"inputs": batch.pulled, "results": batch.completed, "counted": shard.counted}
        if self._tracing is not None:
            said["spans"] = self._tracing.ended
        self._store.give_back(shard)
        unaccounted = sum(abs(count - batch.completed) for count in said.values())
        self._store.batches[self._name].unaccounted = unaccounted
        if unaccounted:
            about = {"batch": batch.name, "batch_id": batch.batch_id, "node": batch.node_id}
            log_event("error", "telemetry.mismatch", **about, **said, unaccounted=unaccounted)
