"""`python -m dashboards.generator.pictures.components`: install Grafana's components and bundle the drawing's code.

The components take 600 MB and a minute, so they are kept in the user's cache and shared by all checkouts that want the
same versions.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

__all__ = ["bundle", "install"]

_HERE: Final = Path(__file__).parent
_COMMON_JS: Final = ("@grafana/ui", "@grafana/data", "@grafana/schema")


def install() -> Path:
    """Install the components of `package.json` unless they are installed.

    Returns:
        Folder of the components.

    Raises:
        FileNotFoundError: npm is not installed.
        subprocess.CalledProcessError: npm failed.
    """
    wanted = (_HERE / "package.json").read_text()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "flowrt" / f"grafana-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    if (folder / "node_modules").exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed: run tools/install-node on Debian, else install Node.js")
    # Installed beside and renamed, so that an interrupted installation is not taken for a complete one.
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    (partial / "package.json").write_text(wanted)
    options = ["--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", "--prefer-offline"]
    try:
        subprocess.run([npm, "install", *options], cwd=partial, check=True)  # noqa: S603
        if not folder.exists():  # another process may have been quicker
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def bundle(target: Path) -> tuple[str, str]:
    """Bundle the drawing's code with Grafana's components.

    Args:
        target: Folder for the bundle.

    Returns:
        The script and the style sheet.
    """
    folder = install()
    modules = folder / "node_modules"
    shutil.copy(_HERE / "draw.tsx", target)
    subprocess.run(  # noqa: S603
        [
            str(modules / ".bin" / "esbuild"),
            "draw.tsx",
            "--bundle",
            "--minify",
            "--format=iife",
            "--jsx=automatic",
            "--charset=utf8",
            "--log-level=warning",
            "--loader:.svg=text",
            "--loader:.ttf=empty",
            "--loader:.css=empty",
            # In the ES modules, esbuild mistakes the default export of old packages for the whole module.
            *(f"--alias:{name}={modules / name}/dist/cjs/index.cjs" for name in _COMMON_JS),
            '--define:process.env.NODE_ENV="production"',
            "--outfile=draw.js",
        ],
        cwd=target,
        env=os.environ | {"NODE_PATH": str(modules)},
        check=True,
    )
    return (target / "draw.js").read_text(), (modules / "uplot" / "dist" / "uPlot.min.css").read_text()


if __name__ == "__main__":
    install()
