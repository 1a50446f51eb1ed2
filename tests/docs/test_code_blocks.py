"""Every code block of the documentation runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(language, code, id=f"{page.relative_to(ROOT)}:{page.read_text()[: found.start()].count(chr(10)) + 1}")
    for page in PAGES
    for found in FENCE.finditer(page.read_text())
    for language, code in [found.groups()]
]


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_block_runs(language: str, code: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    if language == "python":
        command = [sys.executable, "-W", "error", "-c", code]
    elif language == "sh":
        # running make's targets would run this very test, so only check that they exist
        make = re.sub(r"^make ", f"make -n -C {ROOT} ", code, flags=re.MULTILINE)
        if shutil.which("flowrt", path=environment["PATH"]) is None:
            make = re.sub(r"^flowrt ", f"{sys.executable} -m flowrt ", make, flags=re.MULTILINE)
        command = [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            re.sub(r"^python ", f"{sys.executable} ", make, flags=re.MULTILINE),
        ]
    else:
        raise AssertionError(f"a code block is python or sh, not {language!r}")
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
