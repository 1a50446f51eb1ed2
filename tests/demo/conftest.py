"""Fixtures that run the demo as a separate process, and find the real Prometheus."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HANG_GUARD_S = 60


class RunningDemo:
    """A `flowrt demo` that has been started; what it says on stderr is read line by line.

    Args:
        folder: Its working directory.
        args: The command's arguments.
        preexec: Called in the child before it becomes the demo.
    """

    def __init__(self, folder: Path, *args: str, preexec: Callable[[], None] | None = None) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flowrt", "demo", *args],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec,  # noqa: PLW1509  # the test process runs no other thread that matters
        )

    def until(self, start: str) -> str:
        """Return the rest of the next line that begins with `start`; earlier lines are kept in `said`."""
        while True:
            line = self._line()
            if line.startswith(start):
                return line.removeprefix(start).strip()

    def _line(self) -> str:
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line, f"it ended ({self.process.wait(HANG_GUARD_S)}) and said only: {''.join(self.said)}"
        self.said.append(line)
        return line

    def stop(self, signum: int) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(signum)
        return self.end()

    def end(self) -> int:
        """Wait for the exit code."""
        self.said.append(self.process.communicate(timeout=HANG_GUARD_S)[1])
        return self.process.returncode

    @property
    def text(self) -> str:
        """Return everything printed so far."""
        return "".join(self.said)

    def row(self, label: str) -> str:
        """Return the text of a summary row."""
        found = re.search(rf"^{re.escape(label)}  +(.*(?:\n {{10,}}.*)*)$", self.text, re.MULTILINE)
        assert found, f"no row {label!r} in {self.text}"
        return re.sub(r"\n +", " ", found[1])  # long texts are wrapped


Start = Callable[..., RunningDemo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts demos in the test's folder."""
    started: list[RunningDemo] = []

    def start(*args: str, preexec: Callable[[], None] | None = None) -> RunningDemo:
        started.append(RunningDemo(tmp_path, *args, preexec=preexec))
        return started[-1]

    yield start
    for each in started:
        end(each)


def end(demo: RunningDemo) -> None:
    """Kill a demo in any state."""
    if demo.process.poll() is None:
        demo.process.send_signal(signal.SIGKILL)
    demo.process.communicate(timeout=HANG_GUARD_S)


def get(url: str) -> tuple[int, str]:
    """Return status and text of a loopback URL."""
    with urllib.request.urlopen(url, timeout=HANG_GUARD_S) as response:  # noqa: S310
        return response.status, response.read().decode()


def answers(url: str) -> bool:
    """True if a server listens on the port."""
    try:
        get(url)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def prometheus_tools() -> tuple[str, str]:
    """Return the paths of `prometheus` and `promtool`."""
    found = [shutil.which(name) or shutil.which(name, path="/usr/bin") for name in ("prometheus", "promtool")]
    if None in found:
        pytest.fail(
            "prometheus and promtool are neither on the PATH nor in /usr/bin: "
            "`make test` installs them, or apt-get install prometheus"
        )
    return str(found[0]), str(found[1])
