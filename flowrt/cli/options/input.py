"""Options of a command's input: its format, and the items that are read."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Any, Final, Literal

import click

from flowrt.cli.options.groups import Decorator, collect, grouped

__all__ = ["FORMATS", "LINE_LIMIT_BYTES", "Format", "InputOptions", "input_options"]

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]
FORMATS: Final[tuple[Format, ...]] = ("jsonl", "json", "csv", "tsv", "parquet", "arrow")
LINE_LIMIT_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class InputOptions:
    """Options of the input.

    Args:
        input_format: Format, or None to recognize it by the extension.
        delimiter: Delimiter of CSV, or None to detect it.
        no_header: The first row of CSV is data: the columns are named `column_1` and so on.
        skip_lines: Number of lines to skip at the start.
        encoding: Encoding of text, or None for UTF-8, and UTF-16 where it is recognized.
        max_line_bytes: Longest line, and longest field of CSV.
        fields: Fields to keep of each item, or None for all.
        offset: Number of items to skip.
        limit: Maximum number of items, or None.
        sample: Size of a random sample, or None for all items.
    """

    input_format: Format | None = None
    delimiter: str | None = None
    no_header: bool = False
    skip_lines: int = 0
    encoding: str | None = None
    max_line_bytes: int = LINE_LIMIT_BYTES
    fields: tuple[str, ...] | None = None
    offset: int = 0
    limit: int | None = None
    sample: int | None = None

    def fingerprint(self) -> dict[str, str]:
        """Return the options that change the items and differ from their defaults, as text."""
        default = InputOptions()
        names = [name for name in InputOptions.__slots__ if name != "input_format"]
        return {name: repr(getattr(self, name)) for name in names if getattr(self, name) != getattr(default, name)}


def _parse_delimiter(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    character = {"\\t": "\t", "tab": "\t"}.get(value, value)
    if len(character) != 1 or character in '"\r\n\0':
        raise click.BadParameter(f"{value!r} is not one character, such as ; or | or tab.")
    return character


def _parse_encoding(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        info = codecs.lookup(value)
        b"".decode(info.name)
    except LookupError:
        raise click.BadParameter(f"{value!r} is not an encoding that Python knows, such as cp1252.") from None
    return info.name


def _parse_fields(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    if not all(names):
        raise click.BadParameter(f"{value!r} is not a list of names, such as id,text.")
    return names


def input_options(command: Any) -> Any:
    """Decorate a command with the options of the input, which it receives as `reading`."""
    option = grouped("Input")
    options: list[Decorator] = [
        option(
            "--input-format",
            type=click.Choice(FORMATS),
            help="Format of INPUT; by default from its extension, jsonl for -.",
        ),
        option("--fields", callback=_parse_fields, metavar="A,B", help="Keep only these fields of each item."),
        option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Skip the first N items."),
        option("--limit", type=click.IntRange(min=1), metavar="N", help="Read at most N items."),
        option(
            "--sample", type=click.IntRange(min=1), metavar="N", help="Run a random sample of N items, always the same."
        ),
        option("--delimiter", callback=_parse_delimiter, metavar="C", help="Delimiter of CSV; detected by default."),
        option("--no-header", is_flag=True, help="The first row of CSV is data: name the columns column_1, ..."),
        option("--skip-lines", type=click.IntRange(min=0), default=0, metavar="N", help="Skip the first N lines."),
        option("--encoding", callback=_parse_encoding, metavar="NAME", help="Encoding of text; UTF-8 by default."),
        option(
            "--max-line-bytes",
            type=click.IntRange(min=1),
            default=LINE_LIMIT_BYTES,
            metavar="N",
            help="Longest line and CSV field; 16 MiB by default.",
        ),
    ]
    return collect("reading", InputOptions, *options)(command)
