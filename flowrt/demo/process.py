"""Child process of the demo's service, which does not outlive its parent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from flowrt.errors import FlowrtError

__all__ = ["ServiceProcess"]

_STOP_S: Final = 5.0


class ServiceProcess:
    """Context manager that runs the service: `with ServiceProcess() as service:`.

    The child ends when its standard input closes, which the operating system does even for a killed parent.

    Attributes:
        url: URL of the service, without a trailing slash.
        pid: Process id of the child.
    """

    def __init__(self) -> None:
        self.url = ""
        self.pid = 0
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the service and wait until it listens.

        Raises:
            FlowrtError: The child ended before it listened.
        """
        child = self._child = subprocess.Popen(
            [sys.executable, "-m", "flowrt.demo.service"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],  # so that -m finds this flowrt
            start_new_session=True,  # Ctrl-C in the terminal must reach the parent only
        )
        self.pid = child.pid
        try:
            assert child.stdout is not None  # noqa: S101  # stdout is a pipe
            line = child.stdout.readline()
            if not line:
                raise FlowrtError(f"the demo's service did not start: exit code {child.wait(_STOP_S)}")
            self.url = f"http://127.0.0.1:{json.loads(line)['port']}"
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the service."""
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
            child.kill()  # if it hangs or a signal interrupted the wait; harmless after its end
            child.wait()
