"""Tables of results: columns for data frames, and the table that notebooks show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, Final

from flowrt.errors import MissingExtraError
from flowrt.model import BatchResult
from flowrt.model.json_lines import encode_result

__all__ = ["html_table", "to_arrow", "to_pandas", "to_polars"]

_COLUMNS: Final[dict[str, Callable[[BatchResult], Any]]] = {
    "index": lambda result: result.index,
    "status": lambda result: result.status,
    "input": lambda result: result.input_data,
    "output": lambda result: result.output,
    "error": lambda result: result.error,
    "error_type": lambda result: result.error_type,
    "attempts": lambda result: result.attempts,
    "execution_time": lambda result: result.execution_time,
    "queue_time": lambda result: result.queue_time,
}
_USERS: Final = ("input", "output")
_SHOWN: Final = ("index", "status", "input", "output", "error", "execution_time")
_CELL_CHARS: Final = 100


def to_pandas(results: Iterable[BatchResult]) -> Any:
    """Return a pandas DataFrame; inputs and outputs are the same objects, not copies."""
    try:
        import pandas as pd  # noqa: PLC0415  # heavy
    except ImportError:
        raise MissingExtraError("to_pandas()", "pandas", "pandas") from None
    columns = _columns_of(results)
    return pd.DataFrame({name: pd.Series(v, dtype=object if name in _USERS else None) for name, v in columns.items()})


def to_polars(results: Iterable[BatchResult]) -> Any:
    """Return a polars DataFrame with the columns of `to_arrow`."""
    try:
        import polars as pl  # noqa: PLC0415  # heavy
    except ImportError:
        raise MissingExtraError("to_polars()", "polars", "polars") from None
    return pl.from_arrow(to_arrow(results))


def to_arrow(results: Iterable[BatchResult]) -> Any:
    """Return a pyarrow Table; inputs or outputs without a common Arrow type become JSON text."""
    try:
        import pyarrow as pa  # noqa: PLC0415  # heavy
    except ImportError:
        raise MissingExtraError("to_arrow()", "pyarrow", "parquet") from None
    types: dict[str, Any] = {
        "index": pa.int64(), "status": pa.string(), "error": pa.string(), "error_type": pa.string(),
        "attempts": pa.int64(), "execution_time": pa.float64(), "queue_time": pa.float64(),
    }  # fmt: skip
    arrays: dict[str, Any] = {}
    for name, values in _columns_of(results).items():
        try:
            arrays[name] = pa.array(values, types.get(name))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            if name not in _USERS:
                raise
            arrays[name] = pa.array([None if value is None else _as_json(value) for value in values], pa.string())
    return pa.table(arrays)


def html_table(results: Sequence[BatchResult], rows: int = 10) -> str:
    """Return the first results as an HTML table with all texts escaped and cut.

    Args:
        results: The results of a batch.
        rows: How many of them to show at most.
    """
    head = "".join(f"<th>{name}</th>" for name in _SHOWN)
    body = ""
    for result in results[:rows]:
        cells = (f'<td style="text-align:left">{_cell(_COLUMNS[name](result))}</td>' for name in _SHOWN)
        body += f"<tr>{''.join(cells)}</tr>"
    more = len(results) - rows
    rest = f"<p>… and {more:,} more</p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _columns_of(results: Iterable[BatchResult]) -> dict[str, list[Any]]:
    kept = list(results)
    return {name: [value(result) for result in kept] for name, value in _COLUMNS.items()}


def _as_json(value: Any) -> str:
    return json.dumps(json.loads(encode_result(BatchResult(0, None, True, value)))["output"])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    try:
        text = f"{value:.3f} s" if isinstance(value, float) else value if isinstance(value, str) else repr(value)
    except Exception as exc:  # a broken __repr__ of the user's must not break the display of the others
        text = f"{type(value).__name__} (repr raised {type(exc).__name__})"
    text = text[: _CELL_CHARS - 1] + "…" if len(text) > _CELL_CHARS else text
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
