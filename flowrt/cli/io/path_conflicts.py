"""Check that the files of a run are different files."""

from __future__ import annotations

import os
from collections.abc import Sequence

from flowrt.cli.exit_codes import CommandError

__all__ = ["check_path_conflicts"]


def check_path_conflicts(inputs: Sequence[os.stat_result], output: str, **others: str | None) -> None:
    """Refuse two names of one file, before anything is written to either.

    Args:
        inputs: File status of each input.
        output: Path of the output, or - for standard output.
        others: Paths of the other files by their purpose, in the order of writing; None for an unused one.

    Raises:
        CommandError: Two paths name the same file.
    """
    used: dict[str, str] = {}
    if output != "-":
        used = {os.path.realpath(name): "output" for name in (output, f"{output}.partial")}
    for what, name in others.items():
        if not name:
            continue
        path = os.path.realpath(name)
        same = "input" if _is_input(path, inputs) else used.setdefault(path, what)
        if same != what:
            raise CommandError(f"{what} {name} is the {same} itself: give it another name")


def _is_input(path: str, inputs: Sequence[os.stat_result]) -> bool:
    try:
        status = os.stat(path)  # noqa: PTH116  # strings throughout
    except (OSError, ValueError):  # it does not exist, or cannot: opening it reports that
        return False
    return any(os.path.samestat(status, each) for each in inputs)
