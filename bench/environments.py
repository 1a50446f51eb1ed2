"""An environment for each peer, with what it is pinned to, made when it is first asked for."""

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
"""What each environment has beside uvloop and aiohttp; its name is that of the peer."""


def packages_of(name: str) -> tuple[str, ...]:
    """The peer's own pinned package."""
    return PINNED[name][:1]


def environment(name: str, say: Callable[[str], None] = lambda _: None) -> str:
    """The interpreter of a peer's environment, which is made where it is missing or pinned to something else.

    Args:
        name: The peer's.
        say: Told when one is made.

    Raises:
        RuntimeError: It cannot be made; the message has the installer's last words.
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
