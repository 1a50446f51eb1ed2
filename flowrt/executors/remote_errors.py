"""Exceptions that are sent from a worker to the driver."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

from flowrt.errors import FlowrtError, error_text, error_type_of
from flowrt.executors.pickling import dumps

__all__ = ["RemoteError", "RemoteTracebackError", "pack_exception", "unpack_exception"]


class RemoteError(FlowrtError):
    """Stands for an exception that cannot be pickled; its class has the name of the original's."""


class RemoteTracebackError(FlowrtError):
    """The traceback of an exception in the worker, as text: the cause of the exception at the driver."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}" if self.args else ""


Packed = tuple[bytes | None, str, str, str]
"""The exception pickled if that is possible, its type, its message and its traceback."""


def pack_exception(exc: BaseException, skip_frames: int = 1) -> Packed:
    """Pack an exception so that it can be unpacked anywhere.

    Args:
        exc: The exception.
        skip_frames: How many of the first frames of its traceback are flowrt's own.
    """
    frames = exc.__traceback__
    for _ in range(skip_frames):
        frames = None if frames is None else frames.tb_next
    text = "".join(traceback.format_exception(type(exc), exc, frames))
    data: bytes | None
    try:
        data = dumps(exc)
        if type(pickle.loads(data)) is not type(exc):  # noqa: S301  # it was pickled just now
            data = None  # an exception may be pickled, and fail to be loaded: its __init__ takes other arguments
    except Exception:
        data = None
    return data, error_type_of(exc), error_text(exc), text


def unpack_exception(packed: Packed) -> BaseException:
    """Return the exception, or a `RemoteError` of the same name and message if this process cannot load it."""
    data, name, message, text = packed
    error: BaseException | None = None
    if data is not None:
        try:
            loaded = pickle.loads(data)  # noqa: S301  # from this batch's own worker
            error = loaded if isinstance(loaded, BaseException) else None
        except Exception:
            error = None
    if error is None:
        kind: Any = type(name, (RemoteError,), {"__module__": RemoteError.__module__})
        stand_in: RemoteError = kind(message)
        error = stand_in
    error.__cause__ = RemoteTracebackError(text)
    return error
