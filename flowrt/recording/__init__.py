"""A finished batch on disk: the times of every attempt in columns, and what is known of the whole beside them."""

from __future__ import annotations

from flowrt.recording.columns import Note, RowBuffer
from flowrt.recording.error_groups import Causes
from flowrt.recording.errors import RecordingError
from flowrt.recording.slowest import Slowest

__all__ = ["Causes", "Note", "RecordingError", "RowBuffer", "Slowest"]
