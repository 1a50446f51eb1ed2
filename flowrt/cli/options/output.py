"""Options of a command's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from flowrt.cli.options.groups import collect, grouped

__all__ = ["OutputOptions", "output_options"]


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Options of the output.

    Args:
        output: Path of the output, or - for standard output.
        overwrite: Replace an existing file.
        output_fields: Fields of a line, or None for all.
        keep_input: Merge the fields of the input into the line.
        errors: Path of the file for the inputs of failed items, or None.
    """

    output: str
    overwrite: bool = False
    output_fields: tuple[str, ...] | None = None
    keep_input: bool = False
    errors: str | None = None


def _parse_fields(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise click.BadParameter(f"{value!r} is not a list of different names, such as index,status,output.city.")
    return names


def output_options(command: Any) -> Any:
    """Decorate a command with the options of the output, which it receives as `writing`."""
    option = grouped("Output")
    return collect(
        "writing",
        OutputOptions,
        option(
            "-o", "--output", required=True, metavar="OUTPUT", help="JSONL, .csv, .parquet, each .gz; - for stdout."
        ),
        option("--overwrite", is_flag=True, help="Replace OUTPUT and FILEs that exist."),
        option("--output-fields", callback=_parse_fields, metavar="A,B.C", help="Write only these fields of a line."),
        option("--keep-input", is_flag=True, help="Merge the fields of the input into the line."),
        option("--errors", metavar="FILE", help="Write the inputs of failed items to FILE, to run them again."),
    )(command)
