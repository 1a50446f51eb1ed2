"""A run's files: each is another one."""

from __future__ import annotations

import os

from flowrt.cli.exit_codes import CommandError

__all__ = ["keep_apart"]


def keep_apart(source: os.stat_result, output: str, **others: str | None) -> None:
    """Refuse two names of one file, before anything is written to either.

    Args:
        source: The input's status.
        output: The output, or - for standard output.
        others: What else is written, in the order of writing, by what it is called; None where it is not asked for.

    Raises:
        CommandError: Two of them are the same file.
    """
    taken: dict[str, str] = {}
    if output != "-":
        taken = {os.path.realpath(name): "output" for name in (output, f"{output}.partial")}
    for what, name in others.items():
        if not name:
            continue
        place = os.path.realpath(name)
        same = "input" if _is(place, source) else taken.setdefault(place, what)
        if same != what:
            raise CommandError(f"{what} {name} is the {same} itself: give it another name")


def _is(place: str, source: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(place), source)  # noqa: PTH116  # strings throughout
    except (OSError, ValueError):  # there is none, or none can be there, which whoever opens it tells
        return False
