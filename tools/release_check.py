"""Builds the wheel and the sdist, installs each in clean environments, and runs what a new user would.

`make release-check`, by hand before a release: it takes five to ten minutes and needs a package index. Interpreters are
looked for on the PATH and in pyenv.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from tools import tutorial

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
EXPECTED = (
    "flowrt/py.typed",
    "flowrt/dashboards_data/compose.yaml",
    "flowrt/reporting/page.css",
    "flowrt/server/static/",
)
WATCHED_IMPORT = """
import os, sys
seen = []
def hook(event, arguments):
    if event in ("socket.__new__", "_thread.start_new_thread", "os.mkdir", "os.rename", "subprocess.Popen"):
        seen.append(event)
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        seen.append(str(arguments[0]))
sys.dont_write_bytecode = True  # what Python writes itself does not count
sys.addaudithook(hook)
import flowrt
"""
JOB = "async def shout(item):\n    return item.upper()\n"


def interpreter(version: str) -> str | None:
    """Return a working interpreter of a version, or None."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"), reverse=True)
    for candidate in (shutil.which(f"python{version}"), *map(str, pyenv)):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def clean_environment() -> dict[str, str]:
    """This process's environment without the checkout on Python's path."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout; its output is shown if it fails."""
    done = subprocess.run(command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build both distributions and check what is in them."""
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in EXPECTED if not any(each.startswith(name) for each in names)]
    foreign = [name for name in names if not re.match(r"flowrt[-/]", name)]
    if missing or foreign:
        raise SystemExit(f"the wheel lacks {missing} and has {foreign[:5]}")
    return wheel, sdist


def try_out(python: str, distribution: Path, folder: Path) -> str:
    """Install a distribution in a clean environment and use it as a newcomer would.

    Returns:
        The version that is installed.
    """
    folder.mkdir()
    run(python, "-m", "venv", "venv", cwd=folder)
    binaries = folder / "venv" / "bin"
    run(binaries / "python", "-m", "pip", "install", "--quiet", distribution, cwd=folder)
    readme = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if readme is None:
        raise SystemExit("README.md has no Python example")
    (folder / "first.py").write_text(readme[1])
    (folder / "jobs.py").write_text(JOB)
    (folder / "in.jsonl").write_text('"a"\n"b"\n')
    run(binaries / "python", "-W", "error", "first.py", cwd=folder)
    run(binaries / "python", "-W", "error", "-c", "import flowrt.testing", cwd=folder)
    run(binaries / "python", "-c", f"{WATCHED_IMPORT}assert not seen, seen", cwd=folder)
    run(binaries / "flowrt", "run", "jobs:shout", "in.jsonl", "-o", "out.jsonl", "--quiet", cwd=folder)
    run(binaries / "flowrt", "dashboards", "export", "monitoring", cwd=folder)
    run(binaries / "python", "-m", "pip", "check", cwd=folder)
    return run(binaries / "flowrt", "--version", cwd=folder).strip()


def follow_tutorial(python: str, wheel: Path, folder: Path) -> float:
    """Follow the tutorial in a clean environment, with the extras that it names.

    Returns:
        How long it took after the installation, in seconds.
    """
    (folder / "work").mkdir(parents=True)
    run(python, "-m", "venv", "venv", cwd=folder)
    binaries = folder / "venv" / "bin"
    run(binaries / "python", "-m", "pip", "install", "--quiet", f"{wheel}[cli,report]", cwd=folder)
    began = time.monotonic()
    tutorial.follow(folder / "work", {**clean_environment(), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"})
    return time.monotonic() - began


def main() -> None:
    """Check every distribution on every interpreter that is there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        distributions = build(folder)
        found = {version: python for version in PYTHONS if (python := interpreter(version)) is not None}
        for version, python in found.items():
            for distribution in distributions:
                place = folder / f"{version}{distribution.suffix}"
                sys.stdout.write(f"Python {version}, {distribution.name}: {try_out(python, distribution, place)}\n")
        seconds = follow_tutorial(next(iter(found.values())), distributions[0], folder / "tutorial")
        sys.stdout.write(f"tutorial, with the extras cli and report: {seconds:.0f} s\n")
        if missing := [version for version in PYTHONS if version not in found]:
            raise SystemExit(f"not checked, as there is no such interpreter: Python {', '.join(missing)}")


if __name__ == "__main__":
    main()
