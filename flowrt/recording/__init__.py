"""Recordings: Parquet files with the times of every attempt of a batch, and the batch's metadata."""

from __future__ import annotations

from flowrt.recording.columns import Note, RowBuffer
from flowrt.recording.error_groups import ErrorGroups
from flowrt.recording.errors import RecordingError
from flowrt.recording.slowest import Slowest

__all__ = ["ErrorGroups", "Note", "RecordingError", "RowBuffer", "Slowest"]
