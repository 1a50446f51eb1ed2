"""The demo's service as a child process that does not outlive its parent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import flowrt
from flowrt.errors import FlowrtError

__all__ = ["ServiceProcess"]

_STOP_S: Final = 5.0


class ServiceProcess:
    """Runs the service while the block lasts; to be used as `with ServiceProcess() as service:`.

    The child ends when its standard input closes, which the operating system does for a parent that is killed.

    Attributes:
        url: Where it answers, without a trailing slash.
        pid: Its process id.
    """

    def __init__(self) -> None:
        self.url = ""
        self.pid = 0
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            FlowrtError: It ended at once.
        """
        child = self._child = subprocess.Popen(
            [sys.executable, "-m", "flowrt.demo.service"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(flowrt.__file__).parents[1],  # where -m finds this very flowrt
            start_new_session=True,  # a terminal's Ctrl-C is for the parent alone
        )
        self.pid = child.pid
        try:
            assert child.stdout is not None  # noqa: S101  # it is a pipe
            line = child.stdout.readline()
            if not line:
                raise FlowrtError(f"the demo's service did not start: it ended with exit code {child.wait(_STOP_S)}")
            self.url = f"http://127.0.0.1:{json.loads(line)['port']}"
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self._stop()

    def _stop(self) -> None:
        child = self._child
        if child is None:
            return
        self._child = None
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            child.kill()  # where it hangs, or a signal came; one that has ended is left alone
            child.wait()
