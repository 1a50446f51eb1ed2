"""The bytes of a journal: text, a line each, with a checksum before what it holds.

    flowrt-journal 5f0c11aa 1 {"created": ..., "flowrt": ..., "fingerprint": {...}}
    6d2b90e4 @ 133 478
    0b7a4f21 0 ok 9e1c55d0 {"index": 0, "success": true, "status": "ok", "output": ...}
    c91d03b7 1 failed - {"index": 1, ...}

The first line is the header. A line with an `@` begins a group: the group's own offset, and how many bytes of records
follow it; it is written only after every byte before it was synced, which is how a torn tail and a damaged middle are
told apart. Any other line is a finished item: index, status, checksum of its input (or `-`), and the line that the
item has in an output file. Checksums are CRC-32 over all that stands behind them, in eight lower-case hexadecimal
digits. JSON here is ASCII without line breaks, so a line break always ends a line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

from flowrt.model import BatchResult
from flowrt.model.json_lines import encode_result

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
MARKER_BYTES: Final = 64  # no line that begins a group is longer: 8 + 2 numbers of up to 20 digits, and what parts them
NO_DIGEST: Final = b"-"
STATUS_CODES: Final = {b"ok": 1, b"failed": 2, b"timed_out": 3}

Fingerprint = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """What a journal says about the run that it belongs to.

    Attributes:
        fingerprint: What makes the run the run it is, by name; JSON values.
        created: When, as an ISO time in UTC.
        flowrt: The version of flowrt that made it.
    """

    fingerprint: Fingerprint
    created: str
    flowrt: str


def encode_header(header: Header) -> bytes:
    """The first line of a journal."""
    text = json.dumps({"created": header.created, "flowrt": header.flowrt, "fingerprint": header.fingerprint})
    return MAGIC + sealed(b"%d %s\n" % (FORMAT, text.encode("ascii")))


def decode_header(line: bytes) -> tuple[int, Header | None] | None:
    """The format and, where it is this one, the header; None for a line that is no whole header.

    Args:
        line: The file's first line with its line break.
    """
    body = body_of(line.removeprefix(MAGIC)) if line.startswith(MAGIC) else None
    if body is None:
        return None
    number, _, text = body.partition(b" ")
    if int(number) != FORMAT:
        return int(number), None
    told = json.loads(text)
    return FORMAT, Header(told["fingerprint"], told["created"], told["flowrt"])


def encode_marker(offset: int, size_bytes: int) -> bytes:
    """The line that begins a group.

    Args:
        offset: Where it will stand.
        size_bytes: How many bytes of records will follow it.
    """
    return sealed(b"@ %d %d\n" % (offset, size_bytes))


def encode_record(result: BatchResult, digest: bytes = NO_DIGEST) -> bytes:
    """The line of a finished item.

    Args:
        result: How it ended: ok, failed or timed_out.
        digest: The checksum of its input.
    """
    body = b"%d %s %s %s" % (result.index, result.status.encode("ascii"), digest, encode_result(result))
    return sealed(body)


def decode_record(body: bytes) -> tuple[bytes, bytes]:
    """The checksum of its input, and the item's line of an output file.

    Args:
        body: What `body_of` gave for its line.
    """
    _, _, digest, line = body.split(b" ", 3)
    return digest, line


def body_of(line: bytes) -> bytes | None:
    """What stands behind a line's checksum, or None where the checksum says that it is not what was written."""
    body = line[9:]
    return body if line[:9] == b"%08x " % crc32(body) and body[-1:] == b"\n" else None


def sealed(body: bytes) -> bytes:
    """A line with its checksum before it; the opposite of `body_of`.

    Args:
        body: What the line says, with its line break.
    """
    return b"%08x %s" % (crc32(body), body)
