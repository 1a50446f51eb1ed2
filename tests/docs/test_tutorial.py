"""The tutorial, followed word for word in an empty folder, prints what it says."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
from pathlib import Path

from tests.docs.test_code_blocks import FENCE, ROOT, command_of, environment

PAGE = (ROOT / "docs" / "tutorial.md").read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def matches(expected: str, printed: str) -> bool:
    """True if the texts are equal, where `…` stands for any text."""
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def test_tutorial_prints_what_it_says(tmp_path: Path) -> None:
    page = PAGE.replace("9464", str(free_port()))
    printed = ""
    blocks = FENCE.findall(page)
    for (language, code), (next_language, _) in itertools.pairwise([*blocks, ("", "")]):
        if language == "text":
            assert matches(code, printed), f"expected:\n{code}\nprinted:\n{printed}"
            continue
        command = code
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", code)
            assert name, "a python block of the tutorial names its file in its first line"
            (tmp_path / name[1]).write_text(code)
            if next_language == "sh":  # which runs it
                continue
            command = f"python {name[1]}\n"
        done = subprocess.run(
            command_of("sh", command),
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, command + done.stdout + done.stderr
        printed = done.stdout
