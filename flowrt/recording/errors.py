"""What can be wrong with a recording."""

from __future__ import annotations

from flowrt.errors import FlowrtError

__all__ = ["RecordingError"]


class RecordingError(FlowrtError):
    """A file is no recording that can be read.

    Args:
        message: What is wrong with it, and what would be right.
        missing: Whether there is no such file at all.
    """

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing
