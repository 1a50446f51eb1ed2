"""Click options in named groups, each group passed to its command as one object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

import click

__all__ = ["Decorator", "GroupedCommand", "GroupedOption", "collect", "grouped"]

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


class GroupedOption(click.Option):
    """Option that the help lists under a heading.

    Args:
        group: The heading.
    """

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """Command whose help lists its options by group, in the order of their definition."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "group", "Display"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=34)


def grouped(group: str) -> Callable[..., Decorator]:
    """Return `click.option` for a group.

    Args:
        group: Heading of the group.
    """

    def option(*names: str, **settings: Any) -> Decorator:
        decorator: Decorator = click.option(*names, cls=GroupedOption, group=group, **settings)
        return decorator

    return option


def collect(argument: str, kind: type[Any], *options: Decorator) -> Decorator:
    """Decorate a command with options that it receives as one object.

    Args:
        argument: Name of the command's argument.
        kind: Dataclass whose fields are named like the options.
        options: The options.
    """
    names = [field.name for field in fields(kind)]

    def decorate(command: Command) -> Command:
        @wraps(command)
        def collected(**given: Any) -> None:
            values = {name: given.pop(name) for name in names}
            command(**given, **{argument: kind(**values)})

        decorated: Command = collected
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
