"""Table of docs/files.md: what happens to each format and oddity, by reading an example of each.

`python -m tests.cli.io.files_table` writes it; a test checks it.
"""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import datetime as dt
import gzip
import io
import json
import lzma
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from flowrt.cli.exit_codes import CommandError
from flowrt.cli.io.readers import open_input
from flowrt.cli.options.input import InputOptions
from flowrt.errors import FlowrtError
from flowrt.model import Rejected

__all__ = ["PAGE", "filled_page", "table"]

PAGE = Path(__file__).parents[3] / "docs" / "files.md"
BEGIN = "<!-- table: begin (python -m tests.cli.io.files_table) -->"
END = "<!-- table: end -->"


def _parquet(columns: dict[str, Any], **options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def _far_dates() -> bytes:
    import pyarrow as pa

    days = [dt.datetime(9999, 12, 31), dt.datetime(1000, 1, 1)]  # noqa: DTZ001  # as Spark writes them
    return _parquet({"t": pa.array(days, pa.timestamp("us"))}, use_deprecated_int96_timestamps=True, store_schema=False)


def _nanoseconds() -> bytes:
    import pyarrow as pa

    return _parquet({"t": pa.array([1_000_000_001], pa.timestamp("ns"))})


def _out_of_range() -> bytes:
    import pyarrow as pa

    return _parquet({"t": pa.array([0, 2**62], pa.timestamp("us"))})


def _arrow(*, stream: bool) -> bytes:
    import pyarrow as pa

    data = pa.table({"a": [1]})
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, data.schema) as writer:
        writer.write_table(data)
    return bytes(sink.getvalue())


def _twice() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), buffer)
    return buffer.getvalue()


Case = tuple[str, str, bytes | Callable[[], bytes], dict[str, Any]]

CASES: dict[str, list[Case]] = {
    "JSON Lines (`.jsonl`, `.ndjson`)": [
        ("one JSON value per line", "in.jsonl", b'{"a": 1}\n{"a": 2}\n', {}),
        ("blank lines, CRLF, byte order mark", "in.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n', {}),
        ("no line break at the end", "in.jsonl", b"1\n2", {}),
        ("a line that is not JSON", "in.jsonl", b"1\n{'a': 1}\n", {}),
        ("NaN or Infinity", "in.jsonl", b"NaN\n", {}),
        ("a number too large for a float", "in.jsonl", b"1e999\n", {}),
        ("duplicate keys", "in.jsonl", b'{"a": 1, "a": 2}\n', {}),
        ("a byte that is not UTF-8", "in.jsonl", b'"caf\xe9"\n', {}),
        ("the same with its encoding", "in.jsonl", b'"caf\xe9"\n', {"encoding": "cp1252"}),
        ("nested beyond Python's limit", "in.jsonl", b"[" * 100_000 + b"\n", {}),
        ("a line over `--max-line-bytes`", "in.jsonl", b'"' + b"x" * 100 + b'"\n', {"max_line_bytes": 64}),
        ("an array over several lines", "in.jsonl", b"[\n 1\n]\n", {}),
        ("an object over several lines", "in.jsonl", b'{\n "a": 1\n}\n', {}),
    ],
    "JSON (`.json`)": [
        ("an array", "in.json", b'[{"a": 1}, {"a": 2}]', {}),
        ("an array over several lines", "in.json", b'[\n {"a": 1},\n {"a": 2}\n]\n', {}),
        ("JSON Lines under this name", "in.json", b'{"a": 1}\n{"a": 2}\n', {}),
        ("JSON Lines of arrays", "in.json", b"[1]\n[2]\n", {}),
        ("one object", "in.json", b'{\n "items": [1]\n}\n', {}),
        ("an array that ends early", "in.json", b"[1, 2", {}),
    ],
    "CSV (`.csv`, `.tsv`)": [
        ("a header and rows", "in.csv", b"a,b\n1,x\n", {}),
        ("semicolons", "in.csv", b"a;b\n1;2,5\n", {}),
        ("tabs under `.csv`", "in.csv", b"a\tb\n1\tx\n", {}),
        ("Excel's `sep=;` line", "in.csv", b"sep=;\na;b\n1;x\n", {}),
        ("`.tsv`", "in.tsv", b"a\tb\n1\tx,y\n", {}),
        ("another delimiter", "in.csv", b"a:b\n1:x\n", {"delimiter": ":"}),
        ("quoted line breaks and quotes", "in.csv", b'a,b\n1,"x ""y""\nz"\n', {}),
        ("trailing delimiters", "in.csv", b"a,b,,\n1,x,,\n", {}),
        ("duplicate column names", "in.csv", b"id,name,id\n1,x,2\n", {}),
        ("one unnamed column, as pandas writes its index", "in.csv", b",a\n0,x\n", {}),
        ("several unnamed columns", "in.csv", b",,a\n0,1,x\n", {}),
        ("blank lines before the header and between rows", "in.csv", b"\na\n\n1\n", {}),
        ("lines before the header", "in.csv", b"Report of today\na,b\n1,x\n", {}),
        ("the same with `--skip-lines 1`", "in.csv", b"Report of today\na,b\n1,x\n", {"skip_lines": 1}),
        ("no header", "in.csv", b"1,2\n3,4\n", {}),
        ("the same with `--no-header`", "in.csv", b"1,2\n3,4\n", {"no_header": True}),
        ("an empty header", "in.csv", b",,\n1,2,3\n", {}),
        ("a row with fewer fields", "in.csv", b"a,b\n1\n", {}),
        ("a row with more fields", "in.csv", b"a,b\n1,2,3\n", {}),
        ("a quote that is never closed", "in.csv", b'a\n1\n"2\n', {}),
        ("text after a closing quote", "in.csv", b'a\n"1"x\n', {}),
        ("a NUL character", "in.csv", b"a\n1\x00\n", {}),
        ("carriage returns alone (old Mac)", "in.csv", b"a,b\r1,x\r", {}),
        ("UTF-16, with or without byte order mark", "in.csv", "a,b\nä,x\n".encode("utf-16-le"), {}),
        ("Windows-1252", "in.csv", "a\nä\n".encode("cp1252"), {}),
        ("the same with `--encoding cp1252`", "in.csv", "a\nä\n".encode("cp1252"), {"encoding": "cp1252"}),
    ],
    "Parquet and Arrow (`.parquet`, `.arrow`, `.feather`; the extra `parquet`)": [
        ("Parquet", "in.parquet", lambda: _parquet({"a": [1], "b": ["x"]}), {}),
        ("Arrow file, Feather", "in.arrow", lambda: _arrow(stream=False), {}),
        ("Arrow stream", "in.arrows", lambda: _arrow(stream=True), {}),
        ("INT96 timestamps of Spark", "in.parquet", _far_dates, {}),
        ("nanoseconds", "in.parquet", _nanoseconds, {}),
        ("a value outside Python's range", "in.parquet", _out_of_range, {}),
        ("two columns of one name", "in.parquet", _twice, {}),
        ("a damaged file", "in.parquet", b"no Parquet at all", {}),
    ],
    "Compressed, by content (zstd: the extra `files`)": [
        ("gzip", "in.jsonl.gz", gzip.compress(b"1\n", mtime=0), {}),
        ("several gzip streams in one file", "in.jsonl.gz", gzip.compress(b"1\n") + gzip.compress(b"2\n"), {}),
        ("bzip2, xz", "in.csv.bz2", bz2.compress(b"a\n1\n"), {}),
        ("xz under another name", "in.jsonl", lzma.compress(b"1\n"), {}),
        ("zstd", "in.jsonl.zst", zstandard.compress(b"1\n"), {}),
        ("a file that ends early", "in.jsonl.gz", gzip.compress(b"1\n2\n", mtime=0)[:-9], {}),
    ],
    "Other files": [
        ("an unknown extension", "in.txt", b"1\n", {}),
        ("the same with `--input-format jsonl`", "in.txt", b"1\n", {"input_format": "jsonl"}),
        ("a spreadsheet", "in.xlsx", b"PK\x03\x04", {}),
        ("a spreadsheet under `.csv`", "in.csv", b"PK\x03\x04....", {}),
        ("Avro", "in.avro", b"Obj\x01", {}),
        ("a zip archive", "in.zip", b"PK\x03\x04", {}),
        ("Parquet under `.jsonl`", "in.jsonl", b"PAR1....", {}),
        ("an empty file", "in.jsonl", b"", {}),
    ],
}


def _outcome(name: str, data: bytes, settings: dict[str, Any]) -> str:
    Path(name).write_bytes(data)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            items = asyncio.run(_items(name, InputOptions(**settings)))
    except (CommandError, FlowrtError) as exc:
        return f"exit {exc.exit_code if isinstance(exc, CommandError) else 2}: {exc}"
    parts = [_shown(item) for item in items[:3]] or ["no items"]
    warnings = [line.removeprefix("flowrt: ") for line in said.getvalue().splitlines()]
    return "; ".join(parts) + "".join(f"; warning: {line}" for line in warnings)


async def _items(name: str, options: InputOptions) -> list[Any]:
    opened = open_input([name], options)
    try:
        return [item async for item in opened.feed]
    finally:
        await opened.feed.close()
        opened.close()


def _shown(item: Any) -> str:
    if isinstance(item, Rejected):
        return f"failed item: {item.error}"
    return f"`{json.dumps(item, default=str, ensure_ascii=False)}`"


def table() -> str:
    """Read an example of each case, and return the table as Markdown."""
    lines: list[str] = []
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for heading, cases in CASES.items():
                lines += ["", f"### {heading}", "", "| input | what happens |", "|---|---|"]
                for what, name, data, settings in cases:
                    outcome = _outcome(name, data() if callable(data) else data, settings)
                    lines.append(f"| {what} | {outcome.replace('|', chr(92) + '|')} |")
        finally:
            os.chdir(before)
    return "\n".join(lines)


def filled_page(page: str) -> str:
    """Replace the table in the page.

    Args:
        page: Text of docs/files.md.
    """
    start, _, rest = page.partition(BEGIN)
    return f"{start}{BEGIN}\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(filled_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
