"""Parquet: each row is an item, a dict by column; read by batches of rows, never whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError
from flowrt.errors import MissingExtraError
from flowrt.model import Rejected

__all__ = ["parquet_chunks"]

_BATCH_ROWS: Final = 512


def parquet_chunks(fd: int, name: str) -> tuple[Iterator[list[Any]], int, Callable[[], None]]:
    """Open a Parquet file.

    Args:
        fd: The file; taken over.
        name: The file's name, for messages.

    Returns:
        Lists of items, how many items there are, and what closes the file.

    Raises:
        MissingExtraError: pyarrow is not installed.
        CommandError: It is damaged, no Parquet at all, or names a column twice.
    """
    try:
        import pyarrow.parquet  # noqa: PLC0415  # an extra, and slow to import
    except ImportError:
        raise MissingExtraError("Parquet input", "pyarrow", "parquet") from None
    opened = os.fdopen(os.dup(fd), "rb")
    try:
        # the checks on a hostile footer's sizes are pyarrow's own; checksums are looked at where pages have them
        table = pyarrow.parquet.ParquetFile(opened, pre_buffer=False, page_checksum_verification=True)
        expected = table.metadata.num_rows
        if expected < 0:
            raise _damaged(name, f"it claims to have {expected} rows")
        columns = table.schema_arrow.names
        if len(set(columns)) < len(columns):  # a row is a dict, which holds one of them
            twice = next(column for column in columns if columns.count(column) > 1)
            raise CommandError(f"{name} names the column {twice!r} twice", UNREADABLE_INPUT)
    except CommandError:
        opened.close()
        raise
    except Exception as exc:
        opened.close()
        raise _damaged(name, exc) from exc

    def close() -> None:
        opened.close()
        if fd != 0:  # standard input is not ours to close
            os.close(fd)

    return _rows(table, name), expected, close


def _rows(table: Any, name: str) -> Iterator[list[Any]]:
    number = 0
    try:
        for batch in table.iter_batches(batch_size=_BATCH_ROWS):
            try:
                chunk = batch.to_pylist()
            except Exception:  # a value that Python has no form for: find the rows that hold it
                chunk = [_row(batch, place, number + place + 1) for place in range(batch.num_rows)]
            number += batch.num_rows
            if chunk:
                yield chunk
    except Exception as exc:
        raise _damaged(name, exc, after=number) from exc
    if number != table.metadata.num_rows:
        raise _damaged(name, f"it has {number:,} rows and claims {table.metadata.num_rows:,}")


def _row(batch: Any, place: int, number: int) -> Any:
    try:
        return batch.slice(place, 1).to_pylist()[0]
    except Exception as exc:
        return Rejected(f"row {number}: {exc}", type(exc).__name__)


def _damaged(name: str, why: object, after: int = 0) -> CommandError:
    where = f" after row {after:,}" if after else ""
    return CommandError(f"{name} is not a Parquet file that can be read{where}: {why}", UNREADABLE_INPUT)
