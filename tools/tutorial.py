"""Follows docs/tutorial.md word for word: saves its files, runs its commands, compares what they print."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["FENCE", "follow", "matches"]

ROOT: Final = Path(__file__).parents[1]
FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block: its language and its code."""


def follow(folder: Path, environment: Mapping[str, str]) -> None:
    """Follow the tutorial.

    A Python block is saved under the name in its first line; it is run too, unless a shell block follows, which does.
    A text block is what the step before it prints.

    Args:
        folder: An empty folder.
        environment: Has `python` and `flowrt` on its PATH.

    Raises:
        RuntimeError: A step fails, or prints something else.
    """
    page = (ROOT / "docs" / "tutorial.md").read_text().replace("9464", str(_free_port()))
    printed = ""
    for (language, code), (next_language, _) in itertools.pairwise([*FENCE.findall(page), ("", "")]):
        if language == "text":
            if not matches(code, printed):
                raise RuntimeError(f"expected:\n{code}\nprinted:\n{printed}")
            continue
        command = code
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", code)
            if name is None:
                raise RuntimeError(f"a block does not name its file in its first line:\n{code}")
            (folder / name[1]).write_text(code)
            if next_language == "sh":
                continue
            command = f"python {name[1]}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
        printed = done.stdout


def matches(expected: str, printed: str) -> bool:
    """True if the texts are equal, where `…` stands for any text."""
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
