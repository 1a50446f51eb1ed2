"""Differences between executors, as the conformance suite observes them; docs/scaling.md has them as a table."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowrt import BatchProcessor, WorkflowContext
from flowrt.executors.remote_errors import RemoteError, RemoteTracebackError
from flowrt.telemetry.metrics.snapshot import Reader
from flowrt.telemetry.metrics.store import METRICS
from tests.executors import worker_nodes as nodes

__all__ = ["DIFFERENCES", "EXECUTORS", "Difference", "alive", "as_markdown", "name_of"]

EXECUTORS: Final = ("loop", "threads", "processes", "ray")
_PATIENCE_S: Final = 60.0
_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Difference:
    """One behaviour that depends on the executor.

    Args:
        what: The subject, in the table's first column.
        observe: Runs a batch with an executor, and a folder for files; returns the observed behaviour in words.
        here: Expected words for executors that run attempts in the driver's process: `loop` and `threads`.
        elsewhere: Expected words for executors that run attempts in workers: `processes` and `ray`.
    """

    what: str
    observe: Callable[[Any, Path], str]
    here: str
    elsewhere: str

    def expected(self, executor: str) -> str:
        """Return the expected words for an executor, by its name."""
        return self.here if executor in ("loop", "threads") else self.elsewhere

    def __str__(self) -> str:
        return self.what


def as_markdown() -> str:
    """Return the differences as a Markdown table."""
    lines = ["| | `loop`, `threads` | `processes`, `ray` |", "|---|---|---|"]
    return "\n".join([*lines, *[f"| {each.what} | {each.here} | {each.elsewhere} |" for each in DIFFERENCES]])


def _batch(node: Any, inputs: Any, executor: Any, c: int = 4, **settings: Any) -> Any:
    return asyncio.run(BatchProcessor(node, c, telemetry=False, executor=executor, **settings).batch(inputs))


def _place_of_a_plain_function(executor: Any, _: Path) -> str:
    pid = _batch(nodes.pid_of, [1], executor)[0].output
    return "a thread of the driver" if pid == os.getpid() else "a worker"


def _place_of_a_coroutine(executor: Any, _: Path) -> str:
    pid = _batch(nodes.later(nodes.pid_of), [1], executor)[0].output
    return "the driver's event loop" if pid == os.getpid() else "a worker's event loop"


def _plain_functions_at_once(executor: Any, folder: Path) -> str:
    here = _place_of_a_plain_function(executor, folder) == "a thread of the driver"
    # each item waits for all that run at once: the four of the batch, or one in each of the two workers
    results = _batch(nodes.meet, [(str(folder / f"{x}"), 4 if here else 2) for x in range(4)], executor)
    spans = [r.output for r in results]
    most = max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)
    return {4: "`max_concurrency`", 2: "one in each worker"}[most]


def _time_limit_of_a_plain_function(executor: Any, folder: Path) -> str:
    (result,) = _batch(nodes.outlast, [str(folder)], executor, item_timeout=1.0)
    assert result.status == "timed_out"
    return _fate_of_the_function(folder)


def _cancelled_plain_function(executor: Any, folder: Path) -> str:
    async def main() -> None:
        processor = BatchProcessor(nodes.outlast, 4, telemetry=False, executor=executor)
        batch = asyncio.ensure_future(processor.batch([str(folder)]))
        while not (folder / "pid").exists():
            await asyncio.sleep(0.01)
        batch.cancel()
        await asyncio.wait([batch], timeout=_PATIENCE_S)
        assert batch.cancelled()

    asyncio.run(main())
    return _fate_of_the_function(folder)


def _fate_of_the_function(folder: Path) -> str:
    """Release a function that was ended or abandoned, and return which of the two it was."""
    pid = int((folder / "pid").read_text())
    until = time.monotonic() + 10
    while pid != os.getpid() and alive(pid) and time.monotonic() < until:  # Ray reports a death before its process ends
        time.sleep(0.01)
    (folder / "go on").touch()
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if (folder / "went on").exists():
            return "is abandoned: it goes on in its thread"
        if not alive(pid):
            return "ends with its worker, which is replaced"
        time.sleep(0.01)
    raise TimeoutError("the function neither goes on nor has its process ended")


def alive(pid: int) -> bool:
    """True if a process runs; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _context_variable(executor: Any, _: Path) -> str:
    async def main() -> Any:
        nodes.VARIABLE.set("set")
        return await BatchProcessor(nodes.read_variable, 4, telemetry=False, executor=executor).batch([1])

    return {"set": "seen by the node", "unset": "not seen"}[asyncio.run(main())[0].output]


def _workflow_variable(executor: Any, _: Path) -> str:
    async def main() -> bool:
        workflow = WorkflowContext("flow")
        processor = BatchProcessor(nodes.SetsVariable("sets"), 4, telemetry=False, executor=executor)
        (result,) = await processor.batch([1], workflow)
        assert result.success, result.error
        return "set" in workflow.global_variables

    return "seen by the driver" if asyncio.run(main()) else "stays in the worker's copy"


def _identity_of_input_and_output(executor: Any, _: Path) -> str:
    given = [Path("input")]  # a container such as a list is copied for each attempt anyway
    (result,) = _batch(nodes.describe, given, executor)
    assert result.output == given[0]
    return "the same objects" if result.output is given[0] else "copies"


def _unpicklable_output(executor: Any, _: Path) -> str:
    bad, good = _batch(nodes.describe, ["unpicklable", 2], executor)
    assert good.output == 2
    if bad.success:
        return "comes back"
    assert "['holder'].lock is a lock, which cannot be pickled" in bad.error
    return "fails its item, and the error names the attribute"


def _unpicklable_input(executor: Any, _: Path) -> str:
    bad, good = _batch(nodes.later(type), [nodes.Holder(), "text"], executor, c=1)
    assert good.output is str
    if bad.success:
        return "reaches the node"
    assert "the input.lock is a lock, which cannot be pickled" in bad.error
    return "fails its item, and the error names the attribute"


def _traceback(executor: Any, _: Path) -> str:
    (result,) = _batch(nodes.describe, ["value error"], executor)
    frames, names = result.exception.__traceback__, []
    while frames is not None:
        names.append(frames.tb_frame.f_code.co_name)
        frames = frames.tb_next
    if "describe" in names:
        return "its own frames"
    assert isinstance(result.exception.__cause__, RemoteTracebackError)
    assert "in describe" in str(result.exception.__cause__)
    return "the worker's, as text in the exception's cause"


def _place_of_a_nested_batch(executor: Any, _: Path) -> str:
    results = _batch(nodes.nested(nodes.pid_of_async), [{"items": [1, 2]}, {"items": [3]}], executor)
    pids = {pid for result in results for pid in result.output["results"]}
    if pids == {os.getpid()}:
        return "the driver's event loop"
    assert os.getpid() not in pids
    assert all(len(set(result.output["results"])) == 1 for result in results)
    return "the worker that has the item"


def _counts_of_a_nested_batch(executor: Any, _: Path) -> str:
    before = _items_of("nested")
    processor = BatchProcessor(nodes.nested(), 2, executor=executor, name="outer")
    results = asyncio.run(processor.batch([{"items": [1, 2]}, {"items": [3]}]))
    assert [result.output["succeeded"] for result in results] == [2, 1]
    return {3: "in the driver's metrics", 0: "not in the driver's metrics"}[_items_of("nested") - before]


def _items_of(batch: str) -> int:
    """Return the number of a batch's successful items by this process's metrics."""
    (reading,) = [each for each in Reader(METRICS).read() if each.metric.name == "flowrt_items_total"]
    return int(sum(value for labels, value in reading.rows if labels[0] == batch and labels[-1] == "ok"))


def _unloadable_exception(executor: Any, _: Path) -> str:
    (result,) = _batch(nodes.describe, ["odd error"], executor)
    if isinstance(result.exception, nodes.OddError):
        return "the exception itself"
    assert isinstance(result.exception, RemoteError)
    assert (result.error_type, result.error) == ("OddError", "7: odd")
    return "a stand-in of its name and message"


def _crash(executor: Any, folder: Path) -> str:
    log = folder / "log"
    log.touch()
    inputs = [{"x": x, "log": str(log), **({"dies": "SIGKILL", "spares": 1} if x == 3 else {})} for x in range(8)]
    name = name_of(executor)
    if name in ("loop", "threads"):
        code = f"""
from tests.executors import differences
differences._batch(differences.nodes.maybe_die, {inputs!r}, {name!r})
"""
        command = [sys.executable, "-c", code]
        driver = subprocess.run(  # our own code
            command, check=False, cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)}, timeout=_PATIENCE_S
        )
        assert driver.returncode == -9
        return "ends the driver"
    results = _batch(nodes.maybe_die, inputs, executor)
    assert [(r.output, r.attempts) for r in results] == [(2 * x, 1) for x in range(8)]
    assert sorted(log.read_text().split()) == sorted("012345673")
    return "that item runs again in another worker, its neighbours once"


def name_of(executor: Any) -> str:
    """Return the name of one of flowrt's own executors."""
    return type(executor).__name__.removesuffix("Executor").lower()


DIFFERENCES: Final = (
    Difference(
        "a plain function runs in",
        _place_of_a_plain_function,
        "a thread of the driver",
        "a worker",
    ),
    Difference(
        "a coroutine function runs in",
        _place_of_a_coroutine,
        "the driver's event loop",
        "a worker's event loop",
    ),
    Difference(
        "plain functions that run at once",
        _plain_functions_at_once,
        "`max_concurrency`",
        "one in each worker",
    ),
    Difference(
        "a plain function over its `item_timeout`",
        _time_limit_of_a_plain_function,
        "is abandoned: it goes on in its thread",
        "ends with its worker, which is replaced",
    ),
    Difference(
        "a plain function of a cancelled batch",
        _cancelled_plain_function,
        "is abandoned: it goes on in its thread",
        "ends with its worker, which is replaced",
    ),
    Difference(
        "a function that kills its process",
        _crash,
        "ends the driver",
        "that item runs again in another worker, its neighbours once",
    ),
    Difference(
        "the batch of a nested `MapNode` runs in",
        _place_of_a_nested_batch,
        "the driver's event loop",
        "the worker that has the item",
    ),
    Difference(
        "the items of a nested batch are counted",
        _counts_of_a_nested_batch,
        "in the driver's metrics",
        "not in the driver's metrics",
    ),
    Difference(
        "a context variable that was set before the batch",
        _context_variable,
        "seen by the node",
        "not seen",
    ),
    Difference(
        "a workflow variable that the node sets",
        _workflow_variable,
        "seen by the driver",
        "stays in the worker's copy",
    ),
    Difference(
        "input and output that are no plain containers",
        _identity_of_input_and_output,
        "the same objects",
        "copies",
    ),
    Difference(
        "an input that cannot be pickled",
        _unpicklable_input,
        "reaches the node",
        "fails its item, and the error names the attribute",
    ),
    Difference(
        "an output that cannot be pickled",
        _unpicklable_output,
        "comes back",
        "fails its item, and the error names the attribute",
    ),
    Difference(
        "the traceback of an exception",
        _traceback,
        "its own frames",
        "the worker's, as text in the exception's cause",
    ),
    Difference(
        "an exception that cannot be pickled",
        _unloadable_exception,
        "the exception itself",
        "a stand-in of its name and message",
    ),
)
"""Every difference that the suite observes."""
