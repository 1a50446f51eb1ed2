"""Virtual environments of the peers, with pinned packages, made on first use."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["FOLDER", "PINNED", "environment", "packages_of"]

FOLDER: Final = Path(__file__).parents[1] / ".venv-peers"

_COMMON: Final = ("uvloop==0.23.0", "aiohttp==3.14.5")
_TELEMETRY: Final = (
    "opentelemetry-sdk==1.45.2",
    "opentelemetry-exporter-otlp-proto-http==1.45.2",
    "prometheus-client==0.26.0",
    "structlog==26.1.0",
)

PINNED: Final[dict[str, tuple[str, ...]]] = {
    "anyio": ("anyio==4.16.0", *_TELEMETRY),
    "aiometer": ("aiometer==1.0.0", *_TELEMETRY),
    "aiostream": ("aiostream==0.8.1", *_TELEMETRY),
    "langchain": ("langchain-core==1.8.1", *_TELEMETRY),
    "taskiq": ("taskiq==0.13.0", *_TELEMETRY),
    "dask": ("distributed==2026.8.0", *_TELEMETRY),
    "ray": ("ray==2.60.0", *_TELEMETRY),
    "prefect": ("prefect==3.9.1", *_TELEMETRY),
    "dbos": ("dbos==3.4.0", *_TELEMETRY),
}
"""Packages of each environment beside uvloop and aiohttp, by the name of the peer."""


def packages_of(name: str) -> tuple[str, ...]:
    """Pinned package of the peer itself."""
    return PINNED[name][:1]


def environment(name: str, say: Callable[[str], None] = lambda _: None) -> str:
    """Interpreter of a peer's environment, which is made if it is missing or its pins have changed.

    Args:
        name: Name of the peer.
        say: Reports the progress.

    Raises:
        RuntimeError: The environment cannot be made; the message has the last line of the installer.
    """
    wanted = (*_COMMON, *PINNED[name])
    folder = FOLDER / name
    python = folder / "bin" / "python"
    stamp, sign = folder / "made", hashlib.sha256("\n".join((sys.version, *wanted)).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == sign:
        return str(python)
    say(f"making the environment of {name}: {', '.join(packages_of(name))}")
    stamp.unlink(missing_ok=True)
    _call([sys.executable, "-m", "venv", "--clear", str(folder)])
    _call([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
    stamp.write_text(sign)
    return str(python)


def _call(command: Sequence[str]) -> None:
    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, capture_output=True, text=True, env=bare, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise RuntimeError(f"{' '.join(command[:4])} … failed: {last[0]}")


if __name__ == "__main__":
    for each in sys.argv[1:] or PINNED:
        environment(each, lambda text: print(text, flush=True))
