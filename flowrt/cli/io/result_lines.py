"""Lines of an output: the result of each item as JSON, with the fields that were asked for."""

from __future__ import annotations

import json
from typing import Any

from flowrt.model import BatchResult
from flowrt.model.json_lines import encode_result

__all__ = ["LineMaker", "input_line"]


class LineMaker:
    """Makes the line of a result.

    Args:
        fields: Fields of the line, with dots for nested ones such as `output.city`; None for all eight.
        keep_input: Merge the fields of the input into the line.
    """

    def __init__(self, fields: tuple[str, ...] | None = None, *, keep_input: bool = False) -> None:
        self._fields = fields
        self._keep_input = keep_input
        self.make = encode_result if fields is None and not keep_input else self._shaped
        """Return the line of a result, with its line break."""

    def _shaped(self, result: BatchResult) -> bytes:
        line: dict[str, Any] = json.loads(encode_result(result))
        if self._keep_input:
            line = _merged(_plain_input(result), line)
        if self._fields is not None:
            line = {name: _lookup(line, name) for name in self._fields}
        return json.dumps(line).encode() + b"\n"


def input_line(result: BatchResult) -> bytes:
    """Return the input of a result as a line that can be read again.

    Args:
        result: A finished item.
    """
    return json.dumps(_plain_input(result)).encode() + b"\n"


def _plain_input(result: BatchResult) -> Any:
    """Return the input as plain JSON, by the same rules as an output."""
    return json.loads(encode_result(BatchResult(result.index, None, True, result.input_data)))["output"]


def _merged(data: Any, line: dict[str, Any]) -> dict[str, Any]:
    """Put the fields of the input before those of the result. A name that both have gets a prefix."""
    kept = data if isinstance(data, dict) else {"input": data}
    return {**{f"input_{name}" if name in line else name: value for name, value in kept.items()}, **line}


def _lookup(line: dict[str, Any], name: str) -> Any:
    """Return a field, or a nested field, or None."""
    if name in line:
        return line[name]
    found: Any = line
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found
