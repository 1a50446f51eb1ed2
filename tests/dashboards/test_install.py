"""`flowrt dashboards export` gives the same files from a wheel, an editable install and a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from dashboards.generator.files import FOLDER, generate

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("install")]

ROOT = FOLDER.parent
EXPORTED = generate() | {"compose.yaml": (FOLDER / "compose.yaml").read_text()}


def run(*command: str | Path, cwd: Path, **env: str) -> None:
    """Run a command without this process's PYTHONPATH, which would put the checkout before what is installed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def build(project: Path, target: str, folder: Path) -> Path:
    """Build an `sdist` or a `wheel` of a project and return the archive."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=project)
    (archive,) = folder.iterdir()
    return archive


def install(folder: Path, *what: str | Path) -> Path:
    """Install into a fresh environment that borrows this one's dependencies, and return the environment's commands."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # A path in a .pth file comes last, and the .pth files in there are not read: this environment's own flowrt, which
    # may be an editable install, stays out.
    dependencies = sysconfig.get_paths()["purelib"]
    (Path(paths["purelib"]) / "dependencies.pth").write_text(f"{dependencies}\n")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--disable-pip-version-check"]
    python = Path(paths["scripts"]) / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *options, *what, cwd=folder)
    return python.parent


def files_in(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_wheel_exports_every_file(wheel: Path, tmp_path: Path) -> None:
    commands = install(tmp_path / "env", wheel)
    run(commands / "flowrt", "dashboards", "export", "out", cwd=tmp_path)
    assert files_in(tmp_path / "out") == EXPORTED


def test_editable_install_exports_every_file(tmp_path: Path) -> None:
    commands = install(tmp_path / "env", "--editable", ROOT)
    run(commands / "flowrt", "dashboards", "export", "out", cwd=tmp_path)
    assert files_in(tmp_path / "out") == EXPORTED


def test_checkout_exports_every_file(tmp_path: Path) -> None:
    run(sys.executable, "-m", "flowrt", "dashboards", "export", "out", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert files_in(tmp_path / "out") == EXPORTED


def test_wheel_holds_only_the_exported_files(wheel: Path) -> None:
    held = {name for name in contents(wheel) if "dashboards" in name}
    command = "flowrt/cli/commands/dashboards.py"
    assert held == {command, *(f"flowrt/dashboards_data/{name}" for name in EXPORTED)}


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as packed:
        packed.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert files_in(FOLDER / "grafana") == files_in(unpacked / "dashboards" / "grafana")
    assert (unpacked / "dashboards" / "README.md").is_file()
    assert contents(build(unpacked, "wheel", tmp_path / "wheel")) == contents(wheel)
