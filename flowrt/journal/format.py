"""Format of a journal: lines of text, each with a checksum before its body.

    flowrt-journal 5f0c11aa 1 {"created": ..., "flowrt": ..., "fingerprint": {...}}
    6d2b90e4 @ 133 478
    0b7a4f21 0 ok 9e1c55d0 {"index": 0, "success": true, "status": "ok", "output": ...}
    c91d03b7 1 failed - {"index": 1, ...}

The first line is the header. A line with an `@` is the marker that begins a group: the group's own offset, and the size
of the records that follow, in bytes. It is written only after every byte before it was synced; that distinguishes a
torn tail from a damaged middle. Any other line is the record of a finished item: index, status, checksum of its input
(or `-`), and the item's line of an output file. A checksum is the CRC-32 of the rest of the line, in eight lower-case
hexadecimal digits. JSON here is ASCII without line breaks, so a line break always ends a line.
"""

from __future__ import annotations

import json
from binascii import hexlify
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

from flowrt.model import BatchResult
from flowrt.model.json_lines import text_of_result

__all__ = [
    "FORMAT",
    "MAGIC",
    "MARKER_BYTES",
    "NO_DIGEST",
    "STATUS_CODES",
    "Header",
    "body_of",
    "decode_header",
    "decode_record",
    "encode_header",
    "encode_marker",
    "encode_record",
    "sealed",
]

MAGIC: Final = b"flowrt-journal "
FORMAT: Final = 1
MARKER_BYTES: Final = 64  # no marker is longer: a checksum of 8, two numbers of up to 20 digits, and separators
NO_DIGEST: Final = b"-"
STATUS_CODES: Final = {b"ok": 1, b"failed": 2, b"timed_out": 3}

Fingerprint = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """First line of a journal: the run that it belongs to.

    Attributes:
        fingerprint: What identifies the run: JSON values by name.
        created: When the journal was created, an ISO time in UTC.
        flowrt: The version of flowrt that created it.
    """

    fingerprint: Fingerprint
    created: str
    flowrt: str


def encode_header(header: Header) -> bytes:
    """Return the first line of a journal."""
    text = json.dumps({"created": header.created, "flowrt": header.flowrt, "fingerprint": header.fingerprint})
    return MAGIC + sealed(b"%d %s\n" % (FORMAT, text.encode("ascii")))


def decode_header(line: bytes) -> tuple[int, Header | None] | None:
    """Parse the first line of a journal.

    Args:
        line: The file's first line with its line break.

    Returns:
        The number of the format, and the header if this version reads that format; None for a line that is not a
        whole header.
    """
    body = body_of(line.removeprefix(MAGIC)) if line.startswith(MAGIC) else None
    if body is None:
        return None
    number, _, text = body.partition(b" ")
    try:
        if int(number) != FORMAT:
            return int(number), None
        header = json.loads(text)
        fingerprint, created, flowrt = header["fingerprint"], header["created"], header["flowrt"]
    except (ValueError, KeyError, TypeError, RecursionError):  # its checksum is right, but flowrt did not write it
        return None
    if not (isinstance(fingerprint, dict) and isinstance(created, str) and isinstance(flowrt, str)):
        return None
    return FORMAT, Header(fingerprint, created, flowrt)


def encode_marker(offset: int, size_bytes: int) -> bytes:
    """Return the marker that begins a group.

    Args:
        offset: The marker's offset in the file.
        size_bytes: Size of the records that follow it.
    """
    return sealed(b"@ %d %d\n" % (offset, size_bytes))


def encode_record(result: BatchResult, digest: bytes = NO_DIGEST) -> bytes:
    """Return the record of a finished item.

    Args:
        result: The item's result: ok, failed or timed_out.
        digest: The checksum of its input.
    """
    text = f"{result.index:d} {result.status} {digest.decode('ascii')} {text_of_result(result)}"
    return sealed(text.encode("ascii"))


def decode_record(body: bytes) -> tuple[bytes, bytes]:
    """Return the checksum of an item's input, and the item's line of an output file.

    Args:
        body: The body of a record, as `body_of` returned it.
    """
    _, _, digest, line = body.split(b" ", 3)
    return digest, line


def body_of(line: bytes) -> bytes | None:
    """Return the text after a line's checksum, or None if the checksum does not match."""
    body = line[9:]
    return body if line[:9] == b"%08x " % crc32(body) and body[-1:] == b"\n" else None


def sealed(body: bytes) -> bytes:
    """Return a line with its checksum before it; the inverse of `body_of`.

    Args:
        body: The line's text, with its line break.
    """
    return hexlify(crc32(body).to_bytes(4)) + b" " + body
