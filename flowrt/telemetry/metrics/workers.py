"""Readings of the workers of remote executors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from flowrt.executors.workers import COUNTS, RESTART_REASONS, TRANSPORT_BOUNDS_S, worker_states
from flowrt.telemetry.metrics.catalogue import CATALOGUE
from flowrt.telemetry.metrics.readings import Distribution, Reading

__all__ = ["read_workers"]

_MOST: Final = 64
_OTHER: Final = "_other"
_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in TRANSPORT_BOUNDS_S)


def read_workers() -> Iterator[Reading]:
    """Current values of the metrics of workers. Slots from the 65th on are summed up as `_other`."""
    busy: dict[str, float] = {}
    inflight: dict[str, float] = {}
    resident: dict[str, float] = {}
    restarts: dict[tuple[str, str], float] = {}
    for slot, busy_ns in COUNTS.busy_ns.copy().items():
        worker = _label(slot)
        busy[worker] = busy.get(worker, 0.0) + busy_ns / 1e9
    for slot, by_reason in COUNTS.restarts.copy().items():
        for reason in RESTART_REASONS:
            key = _label(slot), reason
            restarts[key] = restarts.get(key, 0) + by_reason[reason]
    for state in worker_states():
        worker = _label(state.slot)
        inflight[worker] = inflight.get(worker, 0) + state.inflight
        resident[worker] = resident.get(worker, 0) + state.resident_bytes
    counts = tuple(accumulate(COUNTS.transport_counts))
    transport = Distribution(_BOUNDS_NS, counts, COUNTS.transport_ns / 1e9)
    yield Reading(CATALOGUE["flowrt_worker_busy_seconds_total"], [((worker,), n) for worker, n in busy.items()])
    yield Reading(CATALOGUE["flowrt_worker_items_inflight"], [((worker,), n) for worker, n in inflight.items()])
    yield Reading(CATALOGUE["flowrt_worker_resident_memory_bytes"], [((worker,), n) for worker, n in resident.items()])
    yield Reading(CATALOGUE["flowrt_worker_restarts_total"], list(restarts.items()))
    yield Reading(CATALOGUE["flowrt_transport_duration_seconds"], [((), transport)])


def _label(slot: str) -> str:
    """The slot's label; slots are named by their number."""
    number = slot[1:]
    return slot if number.isdecimal() and int(number) < _MOST else _OTHER
