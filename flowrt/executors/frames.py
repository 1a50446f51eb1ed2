"""Frames between driver and worker: an envelope, a payload and large buffers, each a part of one message.

The envelope holds the message's kind and its columns of integers, and can always be read. The payload holds the
users' values in one protocol-5 pickle; if it cannot be loaded, the envelope still says which items it was for.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from flowrt.executors.pickling import dumps

__all__ = ["Frame", "FrameReader", "Kind", "Status", "make_frame", "on_the_wire"]

_COUNT: Final = struct.Struct("<I")
_LENGTH: Final = struct.Struct("<Q")


class Kind:
    """Kinds of messages; the comment says which columns the envelope has behind the kind, and the payload."""

    # plain integers: members of an enumeration would be pickled by name

    HELLO: Final = 0  # to the worker: () and a dict of settings
    OPEN: Final = 1  # to the worker: (session,) and the session's node and workflow
    ITEMS: Final = 2  # to the worker: (session, first number, indices, attempts, contexts) and the list of inputs
    CANCEL: Final = 3  # to the worker: (numbers,)
    RECALL: Final = 4  # to the worker: (count,), so many items that have not started are to be given back
    CLOSE: Final = 5  # to the worker: (session,)
    STOP: Final = 6  # to the worker: ()
    READY: Final = 7  # to the driver: (pid, host)
    OUTCOMES: Final = 8  # to the driver: (numbers, statuses, service_ns, inbox_ns, usage) and the list of values
    UNREADABLE: Final = 9  # to the driver: (numbers,) of a frame of several items that could not be loaded
    RETURNED: Final = 10  # to the driver: (numbers,)
    OPENED: Final = 11  # to the driver: (session,), whose node has been loaded
    PRINTED: Final = 12  # to the driver: (lines,) of standard error, where the transport does not carry it


class Status:
    """Status of an attempt that ended in a worker, which determines the meaning of its value in the payload."""

    OK: Final = 0  # the output
    SEALED: Final = 1  # the output, pickled by itself, since loading it may fail
    RESULT: Final = 2  # a NodeResult, or another object that the node returned, pickled by itself
    RAISED: Final = 3  # the exception, pickled by itself
    CANCELLED: Final = 4  # None


class Frame(NamedTuple):
    """Message that was read from a stream.

    Attributes:
        envelope: The kind and its columns.
        payload: The pickled payload, or empty.
        buffers: The payload's out-of-band buffers.
    """

    envelope: tuple[Any, ...]
    payload: Any
    buffers: Sequence[Any]

    @classmethod
    def of(cls, parts: Sequence[Any]) -> Frame:
        """Read a message from its parts."""
        return cls(pickle.loads(parts[0]), parts[1], parts[2:])  # noqa: S301  # written by flowrt itself

    def load(self) -> Any:
        """Load the payload.

        Raises:
            Exception: A value cannot be loaded in this process.
        """
        return pickle.loads(self.payload, buffers=self.buffers)  # noqa: S301  # from this batch's own processes


def make_frame(envelope: tuple[Any, ...], payload: Any = None) -> list[Any]:
    """Make a message's parts.

    Args:
        envelope: The kind and its columns.
        payload: The users' values.

    Raises:
        Exception: The payload cannot be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    data = dumps(payload, buffers) if payload is not None else b""
    return [pickle.dumps(envelope, 5), data, *[buffer.raw() for buffer in buffers]]


def on_the_wire(parts: Sequence[Any]) -> list[Any]:
    """Return the buffers to write for a message, beginning with the lengths of its parts."""
    header = _COUNT.pack(len(parts)) + b"".join([_LENGTH.pack(_size(part)) for part in parts])
    small = [header]
    large: list[Any] = []
    for part in parts:
        (small if not large and _size(part) < 65_536 else large).append(part)
    return [b"".join(small), *large]


def _size(part: Any) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)


class FrameReader:
    """Splits a stream of bytes into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[list[Any]]:
        """Add bytes from the stream, and yield the parts of each message that is now complete."""
        self._data += data
        while (parts := self._next()) is not None:
            yield parts

    def _next(self) -> list[Any] | None:
        data = self._data
        if len(data) < 4:
            return None
        (count,) = _COUNT.unpack_from(data)
        at = 4 + 8 * count
        if len(data) < at:
            return None
        lengths = struct.unpack_from(f"<{count}Q", data, 4)
        if len(data) < at + sum(lengths):
            return None
        parts: list[Any] = []
        with memoryview(data) as view:
            for length in lengths:
                parts.append(bytes(view[at : at + length]) if len(parts) < 2 else bytearray(view[at : at + length]))
                at += length
        del data[:at]
        return parts
