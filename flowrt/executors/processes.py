"""Processes executor: attempts in worker processes of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from flowrt._util.cores import usable_cores
from flowrt._util.validation import check_count
from flowrt.errors import MissingExtraError
from flowrt.executors.pickling import dumps_alone
from flowrt.executors.pooled import PooledExecutor
from flowrt.executors.process_transport import ProcessLauncher
from flowrt.executors.remote_pool import PoolSettings
from flowrt.executors.transport import Launcher

__all__ = ["ProcessesExecutor", "default_executor"]


_NOT_ON_WINDOWS: Final = (
    "executor='processes' does not run on Windows, where a child process cannot inherit an open "
    "socket: pass an open concurrent.futures.ProcessPoolExecutor as the executor, or use WSL"
)


class ProcessesExecutor(PooledExecutor):
    """Runs attempts in worker processes: `executor="processes"`, or with settings `executor=ProcessesExecutor(...)`.

    Plain functions run one after another in a worker, so CPU-bound ones use one core each; coroutines run side by
    side there. The workers stay warm from batch to batch, until the executor is closed (`async with executor:`,
    `close()`), a `Runtime` ends, or the process does.

    Args:
        workers: Number of processes; the number of usable cores by default.
        initializer: Called once in each worker before its first item, to load a model or open a connection.
        recycle_after: Number of items after which a worker is replaced by a new one, for code that leaks.
        memory_limit: Resident memory above which a worker is replaced, in bytes.
        max_crashes: Number of workers that an item may crash before it fails as `WorkerCrashed`.

    Raises:
        ValueError: A setting is out of its range, or the system is Windows.
        TypeError: The initializer cannot be pickled.
        MissingExtraError: The extra `processes` is not installed.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        initializer: Callable[[], Any] | None = None,
        recycle_after: int | None = None,
        memory_limit: int | None = None,
        max_crashes: int = 3,
    ) -> None:
        if sys.platform == "win32":
            raise ValueError(_NOT_ON_WINDOWS)
        super().__init__()
        self.workers = usable_cores() if workers is None else check_count("workers", workers)
        self._settings = PoolSettings(
            kind="processes",
            workers=self.workers,
            max_crashes=check_count("max_crashes", max_crashes),
            recycle_after=None if recycle_after is None else check_count("recycle_after", recycle_after),
            memory_limit=None if memory_limit is None else check_count("memory_limit", memory_limit),
        )
        _check_installed()
        self._initializer = None if initializer is None else dumps_alone(initializer, "the initializer")

    def start_pool(self) -> tuple[Launcher, PoolSettings]:
        """Return the current settings, since the import path may have changed since the executor was made."""
        return ProcessLauncher(), replace(self._settings, hello=self._hello())

    def _hello(self) -> dict[str, Any]:
        return {
            "path": [str(Path(entry or ".").resolve()) for entry in sys.path],
            "argv": sys.argv,
            "modules": _modules_from_files(),
            "initializer": self._initializer,
        }

    def __repr__(self) -> str:
        return f"ProcessesExecutor(workers={self.workers})"


def _modules_from_files() -> dict[str, str]:
    """Return the modules that were loaded from a file, which a worker would not find on the import path."""
    folders = {os.path.abspath(entry) for entry in sys.path}  # noqa: PTH100  # of strings, some hundred times
    found = {}
    # A copy: while a list of pairs is made, the garbage collector may run, and another thread import a module.
    for name, module in sys.modules.copy().items():
        spec: Any = getattr(module, "__spec__", None)
        file = getattr(spec, "origin", None)
        if isinstance(file, str) and file.endswith(".py") and "." not in name and spec.name == name:
            module_path = file.removesuffix(".py").removesuffix(f"{os.sep}__init__")
            folder, _, stem = os.path.abspath(module_path).rpartition(os.sep)  # noqa: PTH100
            if stem != name or folder not in folders:
                found[name] = os.path.abspath(file)  # noqa: PTH100
    return found


_default: Final[list[ProcessesExecutor]] = []


def default_executor() -> ProcessesExecutor:
    """The executor of every `executor="processes"` of this process, so that batches share warm workers."""
    if not _default:
        _default.append(ProcessesExecutor())
    return _default[0]


def _check_installed() -> None:
    try:
        import cloudpickle  # noqa: F401, PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("executor='processes'", "cloudpickle", "processes") from None
