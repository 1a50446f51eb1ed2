"""JSON reader: the elements of one array are the items, read one by one with ijson."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import chain
from typing import Any, Final

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError
from flowrt.cli.io.jsonl_reader import decode
from flowrt.errors import MissingExtraError

__all__ = ["array_chunks", "json_layout"]

_SPACE: Final = b" \t\r\n"


def json_layout(blocks: Iterator[bytes], name: str) -> tuple[bool, Iterator[bytes]]:
    """Recognize whether a `.json` file is one array or JSON Lines.

    Args:
        blocks: Blocks of the file.
        name: Name of the file for messages.

    Returns:
        True for an array, and the blocks.

    Raises:
        CommandError: The file is one object over several lines.
    """
    head = next(blocks, b"")
    while not head.strip(_SPACE) and (more := next(blocks, b"")):
        head += more
    text = head.strip(_SPACE)
    line, newline, rest = head.lstrip(_SPACE).partition(b"\n")
    whole = chain([head], blocks)
    if text.startswith(b"["):
        return not (newline and rest.strip(_SPACE) and _is_json(line)), whole
    if text.startswith(b"{") and newline and rest.strip(_SPACE) and not _is_json(line):
        raise CommandError(
            f"{name} is one JSON object, not an array or JSON Lines: extract its list, for example with "
            "jq -c '.items[]', and read it from -",
            UNREADABLE_INPUT,
        )
    return False, whole


def _is_json(line: bytes) -> bool:
    try:
        decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return True


def array_chunks(blocks: Iterator[bytes], name: str, limit_bytes: int) -> Iterator[list[Any]]:
    """Yield the elements of one JSON array in lists.

    Args:
        blocks: Blocks of the document.
        name: Name of the file for messages.
        limit_bytes: Largest element, in bytes.

    Raises:
        CommandError: The document is not valid JSON, or not an array.
        MissingExtraError: ijson is not installed.
    """
    try:
        import ijson  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("a JSON array as input", "ijson", "files") from None
    elements = ijson.sendable_list()
    parser = ijson.items_coro(elements, "item")  # its use_float=True refuses integers of more than 64 bits
    count = pending_bytes = 0
    begun = ended = False
    try:
        for block in blocks:
            start = block.lstrip(_SPACE)
            if not begun and start:
                begun = True
                if not start.startswith(b"["):
                    raise CommandError(f"{name} is not a JSON array: its elements would be the items", UNREADABLE_INPUT)
            parser.send(block)
            pending_bytes += len(block)
            if elements:
                count += len(elements)
                pending_bytes = 0
                yield [_with_floats(element) for element in elements]
                del elements[:]
            elif pending_bytes > limit_bytes:
                raise CommandError(
                    f"{name}: element {count + 1:,} has more than {limit_bytes:,} bytes: raise --max-line-bytes",
                    UNREADABLE_INPUT,
                )
        ended = True
        parser.close()
    except (ijson.JSONError, UnicodeDecodeError, ValueError, RecursionError) as exc:
        if ended:
            del elements[:]  # a number at the end may have been cut
        elif elements:
            yield [_with_floats(element) for element in elements]
        count += len(elements)
        reason = " ".join(str(exc).split())[:200]
        raise CommandError(f"{name} is not valid JSON after element {count:,}: {reason}", UNREADABLE_INPUT) from exc
    if elements:
        yield [_with_floats(element) for element in elements]


def _with_floats(value: Any) -> Any:
    """Replace the parser's Decimals by floats, as in JSON Lines."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _with_floats(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_floats(each) for each in value]
    return value
