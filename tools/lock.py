"""Pins the packages that the tests install: writes constraints/python3.X.txt for an interpreter.

`make lock` calls it for each interpreter of the tests. It installs the newest versions that pyproject.toml allows into
an environment of its own and writes down which these are. `make test` installs exactly those; pyproject.toml says what
flowrt itself needs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_TESTED = ("cloud", "embeddings", "ray", "site")
HEADER = """\
# Versions that `make test` installs on Python {version}. Written by `make lock`; pyproject.toml has the packages
# that are needed, and their oldest versions.
"""


def groups() -> list[str]:
    """The dependency groups that tests and lint need."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return [name for name in tomllib.load(file)["dependency-groups"] if name not in NOT_TESTED]


def installed(folder: Path) -> list[str]:
    """Install everything into a new environment in a folder; returns the pins of what is there."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
    wanted = [word for name in groups() for word in ("--group", name)]
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-compile", "--editable", ".[all]", *wanted],
        cwd=ROOT,
        check=True,
    )
    frozen = subprocess.run(
        [python, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True, check=True
    )
    return [line for line in frozen.stdout.splitlines() if "==" in line]


def main() -> None:
    """Write the file of this interpreter's version."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory() as name:
        pins = installed(Path(name) / "environment")
    target = ROOT / "constraints" / f"python{version}.txt"
    target.parent.mkdir(exist_ok=True)
    target.write_text(HEADER.format(version=version) + "".join(f"{pin}\n" for pin in pins))
    sys.stdout.write(f"written: {target.relative_to(ROOT)}, {len(pins)} packages\n")


if __name__ == "__main__":
    main()
