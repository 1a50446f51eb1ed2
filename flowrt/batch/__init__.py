"""BatchProcessor, its settings and its results."""

from __future__ import annotations

from flowrt.batch.processor import BatchProcessor
from flowrt.batch.results import BatchResults

__all__ = ["BatchProcessor", "BatchResults"]
