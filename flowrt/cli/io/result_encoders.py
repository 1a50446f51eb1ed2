"""Encoders of an output's format: JSON Lines in; JSON Lines, CSV or Parquet out, compressed or not.

They run in the writer thread. The columns of a table are those of its first line: a later field without a column is
reported at the end. A nested value is JSON in a cell.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from pathlib import PurePath
from typing import Any, Final, Protocol

from flowrt.cli.exit_codes import CommandError, say
from flowrt.errors import MissingExtraError

__all__ = ["Encoder", "make_encoder"]

_COLUMNS: Final = ("index", "success", "status", "output", "error", "error_type", "attempts", "execution_time")
_GROUP_ROWS: Final = 10_000


class Encoder(Protocol):
    """Stage between the results and the output file."""

    def encode(self, lines: bytes) -> bytes:
        """Encode complete lines. Return the bytes that are ready to be written."""

    def finish(self) -> bytes:
        """Return the last bytes of a complete output."""


def make_encoder(output: str) -> Encoder | None:
    """Choose the encoder by the extension of the output.

    Args:
        output: Path of the output.

    Returns:
        The encoder, or None for JSON Lines.

    Raises:
        CommandError: The extension names a format that is not written.
        MissingExtraError: pyarrow is not installed.
    """
    path = PurePath(output.lower())
    compressed = path.suffix == ".gz"
    extension = PurePath(path.stem).suffix if compressed else path.suffix
    if extension in (".bz2", ".xz", ".zst"):
        raise CommandError(f"output {output}: only gzip is written: name it {path.stem}.gz")
    inner: Encoder | None = None
    if extension in (".csv", ".tsv"):
        inner = _Csv("\t" if extension == ".tsv" else ",")
    elif extension == ".parquet":
        if compressed:
            raise CommandError(f"output {output}: Parquet is compressed by itself: leave out .gz")
        inner = _Parquet()
    elif extension in (".xlsx", ".xls", ".arrow", ".feather", ".avro"):
        raise CommandError(f"output {output}: {extension} is not written: name a .jsonl, .csv or .parquet file")
    return _Gzip(inner) if compressed else inner


class _Table:
    """Columns of a table, fixed by its first line."""

    def __init__(self) -> None:
        self.columns: list[str] = []
        self._unplaced: set[str] = set()

    def rows(self, lines: bytes) -> list[list[Any]]:
        """Parse lines to rows of values."""
        rows = []
        for text in lines.splitlines():
            line = json.loads(text)
            self.columns = self.columns or list(line)
            if len(line) > len(self.columns) or not line.keys() <= set(self.columns):
                self._unplaced.update(line.keys() - set(self.columns))
            rows.append([line.get(column) for column in self.columns])
        return rows

    def report(self) -> None:
        """Print the fields that were left out."""
        if self._unplaced:
            names = ", ".join(sorted(self._unplaced)[:10])
            say(f"left out of the output: {names}, which the first line has not: name the columns with --output-fields")


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


class _Csv:
    """Encoder of CSV."""

    def __init__(self, delimiter: str) -> None:
        self._table = _Table()
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, delimiter=delimiter, lineterminator="\n")
        self._has_header = False

    def encode(self, lines: bytes) -> bytes:
        for row in self._table.rows(lines):
            self._write_header()
            self._writer.writerow([_cell(value) for value in row])
        return self._take()

    def finish(self) -> bytes:
        self._table.columns = self._table.columns or list(_COLUMNS)
        self._write_header()
        self._table.report()
        return self._take()

    def _write_header(self) -> None:
        if not self._has_header:
            self._has_header = True
            self._writer.writerow(self._table.columns)

    def _take(self) -> bytes:
        data = self._text.getvalue().encode("utf-8", "backslashreplace")  # a lone surrogate has no UTF-8
        self._text.seek(0)
        self._text.truncate()
        return data


class _Parquet:
    """Encoder of Parquet, in row groups."""

    def __init__(self) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415  # an extra
            import pyarrow.parquet as pq  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError("Parquet output", "pyarrow", "parquet") from None
        self._pa, self._pq = pa, pq
        self._table = _Table()
        self._rows: list[list[Any]] = []
        self._sink = _Sink()
        self._writer: Any = None
        self._types = {
            "index": pa.int64(),
            "attempts": pa.int64(),
            "success": pa.bool_(),
            "execution_time": pa.float64(),
        }

    def encode(self, lines: bytes) -> bytes:
        self._rows += self._table.rows(lines)
        while len(self._rows) >= _GROUP_ROWS:
            self._write(self._rows[:_GROUP_ROWS])
            del self._rows[:_GROUP_ROWS]
        return self._sink.take()

    def finish(self) -> bytes:
        self._table.columns = self._table.columns or list(_COLUMNS)
        self._write(self._rows)
        self._writer.close()
        self._table.report()
        return self._sink.take()

    def _write(self, rows: list[list[Any]]) -> None:
        pa = self._pa
        columns = self._table.columns
        schema = pa.schema([(name, self._types.get(name, pa.string())) for name in columns])
        if self._writer is None:
            self._writer = self._pq.ParquetWriter(self._sink, schema)  # type: ignore[arg-type]  # a file object will do
        values = zip(*rows, strict=True) if rows else [[] for _ in columns]
        arrays = [
            pa.array(list(column) if name in self._types else [_text(cell) for cell in column], schema.field(name).type)
            for name, column in zip(columns, values, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _text(value: Any) -> str | None:
    cell = _cell(value)
    return cell if cell is None else cell.encode("utf-8", "backslashreplace").decode("utf-8")


class _Sink(io.RawIOBase):
    """File object that buffers written data until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._at += len(part)
        return len(part)

    def take(self) -> bytes:
        """Return the data written since the last call."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


class _Gzip:
    """Wrapper that compresses another encoder's output."""

    def __init__(self, inner: Encoder | None) -> None:
        self._inner = inner
        self._stream = zlib.compressobj(6, zlib.DEFLATED, 31)

    def encode(self, lines: bytes) -> bytes:
        data = lines if self._inner is None else self._inner.encode(lines)
        # flushed, so that the partial file of a run that is killed can be read to its end
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        data = b"" if self._inner is None else self._inner.finish()
        return self._stream.compress(data) + self._stream.flush()
