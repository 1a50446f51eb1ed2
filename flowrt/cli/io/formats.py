"""Format of an input: recognized by its extension, and checked against its first bytes."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final, get_args

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError
from flowrt.cli.options.input import Format

__all__ = ["COMPRESSED", "check_magic", "format_of", "is_table", "is_url"]

_EXTENSIONS: Final[dict[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
}
COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst")
_SPREADSHEET: Final = "a spreadsheet: save it as CSV (UTF-8), or convert it, for example with in2csv"
_UNSUPPORTED: Final = {
    ".xlsx": _SPREADSHEET,
    ".xls": _SPREADSHEET,
    ".ods": _SPREADSHEET,
    ".avro": "an Avro file: convert it to JSON Lines, for example with fastavro",
    ".orc": "an ORC file: convert it to Parquet, for example with pyarrow.orc",
    ".zip": "a zip archive: pipe the file in it through unzip -p and read it from -",
    ".tar": "a tar archive: extract the files in it",
    ".tgz": "a tar archive: extract the files in it",
    ".7z": "a 7z archive: extract the files in it",
    ".sqlite": "an SQLite database: export a table, for example with sqlite3 -csv -header",
    ".db": "an SQLite database: export a table, for example with sqlite3 -csv -header",
    ".pkl": "a pickle, which can run code when it is read: write JSON Lines",
    ".xml": "XML: convert it to JSON Lines",
    ".yaml": "YAML: convert it to JSON Lines, for example with yq -o json -I 0",
    ".yml": "YAML: convert it to JSON Lines, for example with yq -o json -I 0",
}
_MAGIC: Final = (
    (b"PAR1", "a Parquet file: pass --input-format parquet"),
    (b"ARROW1", "an Arrow file: pass --input-format arrow"),
    (b"FEA1", "a Feather file of version 1: write it again with pyarrow.feather, which writes version 2"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet: unpack it, or save it as CSV"),
    (b"\xd0\xcf\x11\xe0", _SPREADSHEET),
    (b"Obj\x01", _UNSUPPORTED[".avro"]),
    (b"ORC", _UNSUPPORTED[".orc"]),
    (b"SQLite format 3\0", _UNSUPPORTED[".sqlite"]),
    (b"%PDF", "a PDF document: extract its text first"),
    (b"\x89PNG", "a picture, not text"),
)


def is_url(path: str) -> bool:
    """True if a path names a file elsewhere, such as s3://bucket/in.jsonl.

    Args:
        path: The path.
    """
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme.isalnum()


def is_table(form: Format) -> bool:
    """True if a format is a table of typed columns, which pyarrow reads.

    Args:
        form: The format.
    """
    return form in ("parquet", "arrow")


def format_of(path: str, *, streamed: bool) -> Format:
    """Recognize a format by the extension; of a compressed file, by the one before the compression's.

    Args:
        path: Path or URL of the input; - for standard input.
        streamed: The input is a pipe or a device, and is JSON Lines unless its extension names another format.

    Raises:
        CommandError: The extension is unknown, or flowrt does not read its format.
    """
    name = PurePosixPath((_without_query(path) if is_url(path) else path).lower())
    extension = name.suffix
    if extension in COMPRESSED:
        extension = PurePosixPath(name.stem).suffix
    if extension in _EXTENSIONS:
        return _EXTENSIONS[extension]
    if extension in _UNSUPPORTED:
        raise CommandError(f"{path} is {_UNSUPPORTED[extension]}", UNREADABLE_INPUT)
    if path == "-" or streamed:
        return "jsonl"
    known = ", ".join(_EXTENSIONS)
    choices = ", ".join(get_args(Format))
    raise CommandError(
        f"the extension of {path!r} names no format ({known}): pass --input-format with one of {choices}"
    )


def _without_query(url: str) -> str:
    """Cut the query of a URL, and the fragment of an HTTP URL: names of objects may hold a #."""
    if url.startswith(("http://", "https://")):
        url = url.partition("#")[0]
    return url.partition("?")[0]


def check_magic(head: bytes, name: str) -> None:
    """Refuse a file that is not text.

    Args:
        head: First bytes of the file, decompressed.
        name: Name of the file for messages.

    Raises:
        CommandError: The file has another format.
    """
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise CommandError(f"{name} is {what}", UNREADABLE_INPUT)
