"""Remove one safeguard at a time and check that its test fails: `python -m tests.ablation`.

Without arguments each safeguard is removed in turn; words select safeguards by name. The exit code is 1 if the test of
a removed safeguard passes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.ablation.safeguards import SAFEGUARDS

ROOT: Final = Path(__file__).resolve().parents[2]
HANG_S: Final = 60
_FAILED: Final = 1  # pytest's exit code for failed tests


def run_tests(project: Path, tests: list[str], without: str | None = None) -> tuple[int, str]:
    """Run tests in a process of their own.

    Args:
        project: Folder of the tests.
        tests: Ids of the tests.
        without: Name of a safeguard to remove first, or None.

    Returns:
        Pytest's exit code, and the last lines of its output.
    """
    command = [
        sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--timeout", str(HANG_S),
        *(() if without is None else ("-p", "tests.ablation.plugin")), *tests,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLOWRT_ABLATE": without or ""}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-15:])


def main(words: list[str]) -> int:
    """Remove the chosen safeguards in turn, print the table, and return the exit code."""
    chosen = [s for s in SAFEGUARDS if not words or any(word in s.name for word in words)]
    if not chosen:
        print(f"no safeguard has {' or '.join(words)} in its name: the names are in tests/ablation/safeguards.py")
        return 2
    code, output = run_tests(ROOT, sorted({safeguard.test for safeguard in chosen}))
    if code:
        print(f"the tests fail without any safeguard removed:\n{output}")
        return 2
    survived = 0
    width = max(len(safeguard.name) for safeguard in chosen)
    print(f"{'without':<{width}}  its test  seconds  test")
    for safeguard in chosen:
        began = time.monotonic()
        code, output = run_tests(ROOT, [safeguard.test], safeguard.name)
        noticed = code == _FAILED
        survived += not noticed
        verdict = "fails" if noticed else "SURVIVES"
        test = safeguard.test.rpartition("::")[2]
        print(f"{safeguard.name:<{width}}  {verdict:<8}  {time.monotonic() - began:7.1f}  {test}", flush=True)
        if not noticed:
            print(output)
    print(f"{len(chosen)} safeguards, {survived} survive")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
