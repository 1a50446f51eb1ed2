"""Take out one safeguard after the other and see the test that is there for it fail: `python -m tests.ablation`.

It works on a copy of the project. Without arguments all are taken out; words select by name. Ends with 1 where a
safeguard's test does not notice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.ablation.safeguards import SAFEGUARDS, Safeguard

ROOT: Final = Path(__file__).resolve().parents[2]
HANG_S: Final = 60
_FAILED: Final = 1  # pytest's exit code where tests failed


def run_tests(project: Path, tests: list[str]) -> tuple[int, str]:
    """Pytest's exit code, and the end of what it printed."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--assert", "plain",
        "--timeout", str(HANG_S), *tests,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-15:])


def take_out(project: Path, safeguard: Safeguard) -> tuple[bool, str]:
    """Whether its test notices, and what was printed where it does not."""
    file = project / safeguard.file
    text = file.read_text()
    if text.count(safeguard.there) != 1:
        return False, f"its text is {text.count(safeguard.there)} times in {safeguard.file}, not once"
    file.write_text(text.replace(safeguard.there, safeguard.gone))
    try:
        code, told = run_tests(project, [safeguard.test])
    finally:
        file.write_text(text)
    return code == _FAILED, told


def main(words: list[str]) -> int:
    """Try them, print the table, give the exit code."""
    chosen = [s for s in SAFEGUARDS if not words or any(word in s.name for word in words)]
    if not chosen:
        print(f"no safeguard is called {' or '.join(words)}")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch) / "project"
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (project / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, project / name)
        code, told = run_tests(project, sorted({safeguard.test for safeguard in chosen}))
        if code:
            print(f"the tests fail with every safeguard in its place:\n{told}")
            return 2
        survived = 0
        width = max(len(safeguard.name) for safeguard in chosen)
        print(f"{'without':<{width}}  its test  seconds  test")
        for safeguard in chosen:
            began = time.monotonic()
            noticed, told = take_out(project, safeguard)
            survived += not noticed
            verdict = "fails" if noticed else "SURVIVES"
            test = safeguard.test.rpartition("::")[2]
            print(f"{safeguard.name:<{width}}  {verdict:<8}  {time.monotonic() - began:7.1f}  {test}", flush=True)
            if not noticed:
                print(told)
    print(f"{len(chosen)} safeguards, {survived} survive being taken out")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
