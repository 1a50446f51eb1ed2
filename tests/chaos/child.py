"""Runs `flowrt run` in a process that was forked from one that has imported everything: 20 ms a run, not 500.

With `die_at` the process kills itself, as the kernel might, at its n-th call that changes a file: before the call,
after it, or with half of what was to be written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

# import all modules of a run before the fork
import flowrt.batch.processor
import flowrt.cli.commands.run
import flowrt.cli.commands.run_job
import flowrt.cli.options.journal
import flowrt.cli.options.node_loader
import flowrt.runtime.runtime  # noqa: F401
from flowrt.cli.main import main

When = Literal["before", "half", "after"]
CALLS = ("write", "pwrite", "fdatasync", "fsync", "ftruncate", "posix_fallocate", "rename", "replace", "unlink", "open")


def run(folder: str, words: list[str], die_at: int = 0, when: When = "after") -> None:
    """Run the command in a folder, with its stderr in the file `said`, and exit with its code."""
    os.chdir(folder)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    fd = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.path.insert(0, folder)
    if die_at:
        _die_at(die_at, when)
    try:
        main(["run", *words], prog_name="flowrt")
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))
    os._exit(99)


def _die_at(number: int, when: When) -> None:
    """Count the calls of the whole process, and kill it at one of them."""
    lock, calls = threading.Lock(), 0

    def is_due() -> bool:
        nonlocal calls
        with lock:
            calls += 1
            return calls == number

    def fatal(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not is_due():
                return call(*args, **kwargs)
            if when == "half" and call.__name__ in {"write", "pwrite"}:
                call(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
            elif when == "after":
                call(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        return wrapped

    for name in CALLS:
        setattr(os, name, fatal(getattr(os, name)))
    Path.replace = fatal(Path.replace)  # type: ignore[method-assign]
    Path.unlink = fatal(Path.unlink)  # type: ignore[method-assign]
