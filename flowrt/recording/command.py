"""Command line of the process, without secrets, for recordings and reports."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["command_line"]

_SECRET_OPTION: Final = re.compile(r"-.*(token|pass|secret|key|auth|credential|cookie)", re.IGNORECASE)
_MASK: Final = "[redacted]"


def command_line(argv: Sequence[str] | None = None) -> str:
    """Return the command line as a shell would take it, or "" if there is none.

    Values of options whose names suggest a secret are masked, and so are probable secrets in all other arguments.

    Args:
        argv: The arguments, with the program first; those of the process by default.
    """
    from flowrt.telemetry.redaction import redact  # noqa: PLC0415  # loads the telemetry package

    program, *arguments = (sys.argv if argv is None else argv) or [""]
    path = Path(program)
    shown = ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]
    secret = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if secret:
            shown.append(_MASK)
        elif equals and _SECRET_OPTION.match(name):
            shown.append(f"{name}={_MASK}")
        else:
            shown.append(redact(argument))
        secret = not secret and not equals and _SECRET_OPTION.match(argument) is not None
    return shlex.join(shown) if shown != [""] else ""
