"""Error of a file that cannot be read as a recording."""

from __future__ import annotations

from flowrt.errors import FlowrtError

__all__ = ["RecordingError"]


class RecordingError(FlowrtError):
    """The file is not a readable recording.

    Args:
        message: What is wrong with the file, and what to do.
        missing: True if there is no such file.
    """

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing
