"""Fork server for tests of the command and of scripts: each run is forked from a process that has imported flowrt.

Imports would take most of the time of these tests. `test_public_api` and `test_import` test a start from scratch.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

__all__ = ["Forks", "serve"]

ROOT = Path(__file__).resolve().parents[1]
_SIZE = 1 << 20  # one request is one message


class Forks:
    """Client of a process that has imported flowrt and forks for each run.

    Args:
        imports: Modules that the process imports first. They must start no thread.
    """

    def __init__(self, *imports: str) -> None:
        self._mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = f"""
import runpy
{"".join(f"import {name};" for name in imports)}
from tests.forked import serve
if forked := serve({theirs.fileno()}):
    getattr(runpy, forked[0])(*forked[1:])
"""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._lock = threading.Lock()

    def run(
        self, words: list[str], *, cwd: Path, env: dict[str, str], stdin: str, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run the command, or a script, to its end.

        Args:
            words: Arguments of `flowrt`; or the path of a script, which ends in `.py`, with warnings as errors.
            cwd: Its working directory.
            env: Its whole environment.
            stdin: Its standard input, through a pipe.
            timeout_s: When to kill it and raise, in seconds.

        Raises:
            subprocess.TimeoutExpired: It took longer.
        """
        request = json.dumps({"words": words, "cwd": str(cwd), "env": env}).encode()
        (in_r, in_w), (out_r, out_w), (err_r, err_w) = os.pipe(), os.pipe(), os.pipe()
        with self._lock:
            socket.send_fds(self._mine, [request], [in_r, out_w, err_w])
            for fd in (in_r, out_w, err_w):
                os.close(fd)
            pid = int(self._mine.recv(_SIZE))
            late = threading.Timer(timeout_s, os.kill, (pid, signal.SIGKILL))
            late.start()
            texts: dict[int, str] = {}
            readers = [threading.Thread(target=_read, args=(fd, texts)) for fd in (out_r, err_r)]
            for reader in readers:
                reader.start()
            _write(in_w, stdin)
            for reader in readers:
                reader.join()
            code = int(self._mine.recv(_SIZE))
            in_time = late.is_alive()
            late.cancel()
        if not in_time:
            raise subprocess.TimeoutExpired(words, timeout_s, texts[out_r], texts[err_r])
        return subprocess.CompletedProcess(words, code, texts[out_r], texts[err_r])

    def close(self) -> None:
        """End the server; its forks have ended by then."""
        self._mine.close()
        self._process.wait()


def _read(fd: int, texts: dict[int, str]) -> None:
    with open(fd, encoding="utf-8", errors="replace") as end:
        texts[fd] = end.read()


def _write(fd: int, text: str) -> None:
    try:
        with open(fd, "w", encoding="utf-8") as end:
            end.write(text)
    except BrokenPipeError:  # the command ended without reading it
        pass


def serve(fd: int) -> tuple[str, str, None, str] | None:
    """Fork for each request.

    Returns:
        In a fork, a function of `runpy` and its arguments, so that it exits as an interpreter does; in the server None,
        after the last request.
    """

    with socket.socket(fileno=fd) as server:
        while True:
            request, fds, _, _ = socket.recv_fds(server, _SIZE, 3)
            if not request:
                return None
            pid = os.fork()
            if not pid:
                break
            server.send(str(pid).encode())
            for theirs in fds:
                os.close(theirs)
            _, status = os.waitpid(pid, 0)
            server.send(str(os.waitstatus_to_exitcode(status)).encode())
    asked: dict[str, Any] = json.loads(request)
    for number, theirs in enumerate(fds):
        os.dup2(theirs, number)
        os.close(theirs)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    words = asked["words"]
    if words[0].endswith(".py"):
        warnings.simplefilter("error")
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        return "run_path", words[0], None, "__main__"
    sys.argv = ["flowrt", *words]
    return "run_module", "flowrt", None, "__main__"
