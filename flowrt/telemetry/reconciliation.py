"""Audit at the end of a batch: inputs, results, counter increments and item spans must be the same number."""

from __future__ import annotations

from flowrt.engine.instrument import Instrument, Phase
from flowrt.model import BatchRecord
from flowrt.telemetry.logs.events import log_event
from flowrt.telemetry.metrics.store import METRICS, MetricsStore, Shard
from flowrt.telemetry.tracing.instrument import BatchTracing

__all__ = ["Reconciliation"]


class Reconciliation(Instrument):
    """Audits one batch.

    Its phase is before those of metrics and tracing: hooks for an end run in reverse order, so the audit finds these
    instruments' counts complete.

    Args:
        name: The batch's label value among the metrics.
        tracing: The instrument that traces the batch, if any.
        store: The metrics store to which the result is written.
    """

    phase = Phase.RECONCILIATION

    def __init__(self, name: str, tracing: BatchTracing | None, store: MetricsStore = METRICS) -> None:
        self._name = name
        self._tracing = tracing
        self._store = store

    def batch_ended(self, batch: BatchRecord) -> None:
        """Compare the counts; log `telemetry.mismatch` if they differ."""
        shard = batch.shard
        if not isinstance(shard, Shard):
            return
        completed, counted, mine = batch.completed, shard.counted, self._store.batches[self._name]
        spans = completed if self._tracing is None else self._tracing.ended
        self._store.give_back(shard)
        mine.unaccounted = unaccounted = (
            abs(batch.pulled - completed) + abs(counted - completed) + abs(spans - completed)
        )
        if unaccounted:
            counts = {"inputs": batch.pulled, "results": completed, "counted": counted}
            if self._tracing is not None:
                counts["spans"] = spans
            about = {"batch": batch.name, "batch_id": batch.batch_id, "node": batch.node_id}
            log_event("error", "telemetry.mismatch", **about, **counts, unaccounted=unaccounted)
