"""Fields of a batch's first and last event, as JSON text.

A service logs both events for each of its small batches, and a dict of the fields would take longer to encode than the
batch's items to run. A Runtime's lines contain the text as it is; other loggers get the fields that are parsed from it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from flowrt._util.json_text import text_of_str
from flowrt.attribution.explanation import explain_batch
from flowrt.attribution.ledger import CAUSES
from flowrt.model import BatchRecord
from flowrt.telemetry.metrics.instrument import service_ns_of

__all__ = ["ended_fields", "started_fields"]

_MOST_MICROS: Final = 10**12  # above, a float has no digits left for the nanoseconds


def started_fields(batch: BatchRecord) -> str:
    """Return the fields of `batch.started`.

    Args:
        batch: The batch's record.
    """
    expected = "null" if batch.expected is None else f"{batch.expected}"
    return f'{_about(batch)}, "expected": {expected}, "limit": {batch.limit}'


def ended_fields(batch: BatchRecord, suppressed: int = 0) -> str:
    """Return the fields of `batch.completed`.

    Args:
        batch: The batch's record; it has ended.
        suppressed: Number of warnings that were not logged.
    """
    wall_ns = batch.finished_ns - batch.started_ns
    outcome = f'"status": "{batch.status}", "duration_s": {_seconds(wall_ns)}, "completed": {batch.completed}'
    fields = [_about(batch), outcome]
    fields += [f'"{status}": {count}' for status, count in batch.counts.items() if count]
    if batch.cached:
        fields.append(f'"cached": {batch.cached}')
    if (speedup := batch.speedup) is not None:
        fields.append(f'"speedup_claimed": {_ratio(speedup.claimed)}')
        if speedup.measured is not None:
            fields.append(f'"speedup_measured": {_ratio(speedup.measured)}')
        fields.append(f'"speedup_method": "{speedup.method}"')
    elif (service_ns := service_ns_of(batch)) and wall_ns > 0:
        fields.append(f'"speedup_claimed": {_ratio(service_ns / 1e9 / (wall_ns / 1e9))}')
    if batch.ledger is not None:  # all time is charged, as the batch has ended
        bound_s = ", ".join(
            [f'"{cause}": {_seconds(ns)}' for cause, ns in zip(CAUSES, batch.ledger.charged, strict=True) if ns]
        )
        fields.append(f'"bound_s": {{{bound_s}}}, "bound_by": {text_of_str(explain_batch(batch))}')
    if suppressed:
        fields.append(f'"suppressed": {suppressed}')
    return ", ".join(fields)


def _about(batch: BatchRecord) -> str:
    name, node = text_of_str(batch.name), text_of_str(batch.node_id)
    return f'"batch": {name}, "batch_id": {text_of_str(batch.batch_id)}, "node": {node}'


def _seconds(ns: int) -> str:
    """Return a time in seconds as text, rounded to microseconds as by `round(ns / 1e9, 6)`, which is far slower."""
    micros, rest = divmod(ns, 1_000)
    if rest == 500 or micros > _MOST_MICROS:  # a tie is rounded by the quotient's last bits
        return repr(round(ns / 1e9, 6))
    return _text_of_micros(micros + (rest > 500))


@lru_cache(maxsize=64)  # the measured speedup of a small batch is that claimed
def _ratio(value: float) -> str:
    return repr(round(value, 2))


@lru_cache(maxsize=1_024)  # small batches have small numbers
def _text_of_micros(micros: int) -> str:
    return repr(micros / 1e6)
