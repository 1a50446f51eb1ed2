"""Conservation: every input has exactly one outcome, and telemetry reports the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flowrt.batch.results import BatchResults
from flowrt.model import STATUSES, BatchResult
from flowrt.testing.telemetry import CapturedTelemetry

__all__ = ["assert_conserved"]


def assert_conserved(
    results: Iterable[BatchResult], inputs: int | None = None, telemetry: CapturedTelemetry | None = None
) -> None:
    """Assert that a batch lost no item, reported none twice, and counted each as it ended.

    Args:
        results: All results of one batch, as a list in input order or as a stream yielded them.
        inputs: Number of inputs, if known.
        telemetry: Captured during this batch and no other of the same name: its counters, item spans and log events
            are compared too.

    Raises:
        AssertionError: They disagree; the message has both sides.
    """
    kept = list(results)
    indices = [result.index for result in kept]
    if isinstance(results, BatchResults):
        assert indices == sorted(indices), f"results are not in input order: {indices}"  # noqa: S101
    expected = list(range(len(kept) if inputs is None else inputs))
    assert sorted(indices) == expected, f"{len(expected)} inputs, but results for {sorted(indices)}"  # noqa: S101
    for result in kept:
        assert result.status in STATUSES, f"item {result.index} has the status {result.status!r}"  # noqa: S101
        assert result.success or result.error, f"item {result.index} failed without an error"  # noqa: S101
        assert result.success or result.error_type, f"item {result.index} failed without an error_type"  # noqa: S101
    if isinstance(results, BatchResults):
        counts = {status: count for status, count in results.report.counts.items() if count}
        assert counts == Counter(r.status for r in kept), f"the report counts {counts}"  # noqa: S101
    if telemetry is not None:
        name = results.name if isinstance(results, BatchResults) else None
        telemetry.assert_agrees_with(kept, batch=name)
