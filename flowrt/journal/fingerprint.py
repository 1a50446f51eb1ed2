"""Fingerprint: what identifies a run, made of digests of its input and items and the name of its node."""

from __future__ import annotations

import functools
import hashlib
import os
from binascii import hexlify
from collections import deque
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID
from zlib import crc32

from flowrt._util.json_text import make_encoder
from flowrt.model.node import BaseNode

__all__ = ["digest_of_file", "digest_of_item", "name_of_node"]

_BLOCK_BYTES: Final = 1 << 20


def digest_of_file(fd: int, start: int = 0) -> str:
    """Return the digest of a file's content, independent of its name and time; about 1 s per gigabyte.

    Args:
        fd: A regular file; its position does not change.
        start: Offset at which the content begins, in bytes.
    """
    digest = hashlib.blake2b(digest_size=16)
    at = start
    while block := os.pread(fd, _BLOCK_BYTES, at):
        digest.update(block)
        at += len(block)
    return f"{at - start} bytes, blake2b {digest.hexdigest()}"


def digest_of_item(data: Any) -> bytes:
    """Return the checksum of one input, the same in every process.

    It distinguishes inputs that differ as JSON, and types that an output file has a form for. All other objects of one
    type have the same checksum, because their repr may contain an address.

    Args:
        data: An item.
    """
    try:
        text = _text_of(data)
    except Exception:  # a cycle, a key that is not a string, or too deep nesting
        text = _type_of(data)
    return hexlify(crc32(text.encode("ascii", "backslashreplace")).to_bytes(4))


def name_of_node(node: BaseNode) -> dict[str, Any]:
    """Return what identifies a node in a fingerprint: its id, its type and the place of its code, not the code itself.

    So a node may be fixed before its failed items run again. A partial adds a checksum of its arguments.

    Args:
        node: The node.
    """
    code = getattr(node, "fn", node)
    bound: list[Any] = []
    while isinstance(code, functools.partial):
        bound.append([code.args, sorted(code.keywords.items())])
        code = code.func
    if not hasattr(code, "__qualname__"):
        code = type(code)
    named = {"node": node.node_id, "node_type": node.node_type, "code": f"{code.__module__}:{code.__qualname__}"}
    if bound:
        named["arguments"] = digest_of_item(bound).decode("ascii")
    return named


def _stable(value: Any) -> Any:
    if isinstance(value, type):
        return _type_of(value)
    if isinstance(value, (date, time, timedelta, Decimal, UUID, PurePath)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return sorted(_text_of(member) for member in value)
    if isinstance(value, deque):
        return list(value)
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic
        return dump(mode="json")
    if callable(tolist := getattr(value, "tolist", None)):  # numpy
        return tolist()
    return _type_of(value)


_text_of: Final = make_encoder(_stable, allow_nan=True)


def _type_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
