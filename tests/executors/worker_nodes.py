"""Nodes that the tests run in worker processes. This module imports little, since each worker imports it."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext


def note(item: dict[str, Any]) -> None:
    """Append the item to its log; a short write to a file opened for appending is atomic."""
    with Path(item["log"]).open("a") as file:
        file.write(f"{item['x']}\n")


def die(how: str) -> None:
    """End or stop this process by a signal or an exit status."""
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "SIGSEGV":
        ctypes.string_at(0)
    if how == "exit status 3":
        print("about to leave", file=sys.stderr, flush=True)
        os._exit(3)
    if how == "SIGSTOP":
        os.kill(os.getpid(), signal.SIGSTOP)


def segfault_at_five(x: int) -> int:
    """Crash by reading address 0 for the item 5."""
    if x == 5:
        die("SIGSEGV")
    return 10 * x


def maybe_die(item: dict[str, Any]) -> int:
    """Node whose item ends its worker as `dies` says, in its first `spares` runs."""
    note(item)
    if "dies" in item and runs(item) <= item.get("spares", 1_000):
        die(item["dies"])
    return int(item["x"]) * 2


async def maybe_die_later(item: dict[str, Any]) -> int:
    """Coroutine node whose item ends its worker as in `maybe_die`, beside other items."""
    note(item)
    await asyncio.sleep(0.05)
    if "dies" in item and runs(item) <= item.get("spares", 1_000):
        die(item["dies"])
    return int(item["x"]) * 2


def runs(item: dict[str, Any]) -> int:
    """Return how often an item has run."""
    return Path(item["log"]).read_text().split().count(str(item["x"]))


def nap(seconds: float) -> float:
    """Block the thread for some seconds."""
    time.sleep(seconds)
    return seconds


def nap_in_turn(item: dict[str, Any]) -> int:
    """Wait until all listed runs of the item have begun, sleep for this run's seconds, and return its number."""
    note(item)
    run = runs(item)
    _wait_until(lambda: runs(item) >= len(item["naps"]))
    time.sleep(item["naps"][run - 1])
    return run


def meet(item: tuple[str, int]) -> tuple[float, float]:
    """Wait until a number of items have begun, each with its own file in one folder; return the run's begin and end."""
    begin, (file, count) = time.monotonic(), item
    Path(file).touch()
    _wait_until(lambda: len(list(Path(file).parent.iterdir())) >= count)
    return begin, time.monotonic()


def outlast(folder: str) -> None:
    """Write the process id to a file, wait for the file `go on`, and create the file `went on`."""
    pid = Path(folder, "new pid")
    pid.write_text(str(os.getpid()))
    pid.rename(Path(folder, "pid"))  # so that a reader never sees an empty file
    _wait_until(Path(folder, "go on").exists)
    Path(folder, "went on").touch()


def _wait_until(true: Callable[[], bool], patience_s: float = 60.0) -> None:
    until = time.monotonic() + patience_s
    while not true() and time.monotonic() < until:
        time.sleep(0.01)


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def read_variable(_: Any) -> str:
    """Return the value of a context variable."""
    return VARIABLE.get()


class SetsVariable(BaseNode):
    """Node that sets a variable of the workflow."""

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        workflow_context.global_variables["set"] = node_context.input_data
        return NodeResult(True)


def compute(seconds: float) -> float:
    """Compute in Python for some seconds, without a pause."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


def eat_memory(item: Any) -> int:
    """Allocate so many bytes at once."""
    return len(bytearray(item))


def limit_memory() -> None:
    """Initializer that limits the address space to 400 MB more than is in use."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, resource.RLIM_INFINITY))


def refuse() -> None:
    """Initializer that fails."""
    raise ValueError("no model at /models/none")


class Unloadable:
    """Object that can be pickled but not loaded."""

    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise ValueError("broken state")


class OddError(Exception):
    """Exception that can be pickled but not loaded: its `args` are not the arguments of its `__init__`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class Holder:
    """Object that cannot be pickled, because of its lock."""

    def __init__(self) -> None:
        self.name = "holder"
        self.lock = threading.Lock()


def describe(item: Any) -> Any:
    """Return or raise an object that cannot be pickled or loaded; the item names it."""
    if item == "value error":
        raise ValueError("no such value")
    if item == "odd error":
        raise OddError(7, "odd")
    if item == "unloadable":
        return Unloadable()
    if item == "unloadable inside":
        return {"deep": [Unloadable()]}
    if item == "unpicklable":
        return {"holder": Holder()}
    if item == "generator":
        return (x for x in range(3))
    return item


def say(lines: int) -> None:
    """Print lines to standard error."""
    for line in range(lines):
        print(f"line {line}", file=sys.stderr)
    sys.stderr.flush()


def say_at_the_end(_: Any) -> None:
    """Print to standard error when this process ends."""
    atexit.register(print, "the end", file=sys.stderr, flush=True)


def collector_settings(_: Any) -> tuple[int, int]:
    """Return the number of frozen objects, and the threshold of the youngest generation."""
    return gc.get_freeze_count(), gc.get_threshold()[0]


class later:  # noqa: N801  # reads as a decorator
    """Coroutine function made of a plain function; it can be pickled."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        self.__name__ = plain.__name__

    async def __call__(self, item: Any) -> Any:
        await asyncio.sleep(0)
        return self.plain(item)


def fail_at_first(item: dict[str, Any]) -> int:
    """Fail in the first `fails` runs of the item."""
    note(item)
    if runs(item) <= item["fails"]:
        raise ConnectionError(f"attempt {runs(item)} failed")
    return int(item["x"])


async def nap_async(seconds: float) -> float:
    """Sleep for some seconds."""
    await asyncio.sleep(seconds)
    return seconds


class Labelled(BaseNode):
    """Node that returns NodeResults with metadata, and fails for negative inputs."""

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        if node_context.input_data < 0:
            return NodeResult(False, error="negative")
        about = {"index": node_context.index, "attempt": node_context.attempt}
        return NodeResult(True, node_context.input_data * 2, metadata=about)


class HangsAtFirst(BaseNode):
    """Node that hangs in the first attempt at the first item, and returns the attempt's number."""

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        if node_context.index == 0 and node_context.attempt == 1:
            await asyncio.sleep(600)
        return NodeResult(True, node_context.attempt)


def nested(node: Any = None) -> Any:
    """Return a MapNode, which runs a batch inside an item."""
    from flowrt import MapNode

    return MapNode("nested", node or _first)


async def _first(item: dict[str, Any]) -> Any:
    return item["item"]


def pid_of(_: Any) -> int:
    """Return the worker's process id."""
    return os.getpid()


async def pid_of_async(_: Any) -> int:
    """Return the worker's process id, from a coroutine."""
    return os.getpid()


def pid_after_a_nap(_: Any) -> int:
    """Return the worker's process id, after a millisecond."""
    time.sleep(0.001)
    return os.getpid()


_kept: list[bytearray] = []
_loaded: list[int] = []


def keep_memory(_: Any) -> int:
    """Leak 10 MB, up to 400 MB, and take some time."""
    if len(_kept) < 40:
        _kept.append(bytearray(os.urandom(1_000) * 10_000))
    time.sleep(0.01)
    return len(_kept)


def nap_at_exit() -> None:
    atexit.register(time.sleep, 0.5)


def load_model() -> None:
    """Initializer that counts its calls."""
    _loaded.append(1)


def use_model(_: Any) -> int:
    """Return how often the initializer ran in this worker."""
    return len(_loaded)


def current_span(_: Any) -> tuple[str, str, bool]:
    """Return the ids of the current span, and whether it is sampled."""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled


async def current_span_async(item: Any) -> tuple[str, str, bool]:
    """Return the same as `current_span`, from a coroutine."""
    await asyncio.sleep(0)
    return current_span(item)
