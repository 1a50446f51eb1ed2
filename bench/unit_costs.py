"""CPU time of an item in the driver of `flowrt run`, for the plan of docs/scaling.md: `python -m bench.unit_costs`.

The time of 120,000 items less that of 20,000, so that the start is left out. Workers' time is not in it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["main"]

_FEW: Final = 20_000
_MANY: Final = 120_000
_WAYS: Final = (("loop", False), ("loop", True), ("ray", False), ("ray", True))


def _cpu_s(folder: Path, items: int, executor: str, *, journal: bool) -> float:
    """Run the command, and return the CPU time of its process without that of its children."""
    source, output = folder / f"{items}.jsonl", folder / "out.jsonl"
    source.write_text("".join(f'{{"x": {x}, "text": "abcdefghijklmnopqrstuvwxyz"}}\n' for x in range(items)), "utf-8")
    for left in (output, folder / "journal"):
        left.unlink(missing_ok=True)
    arguments = [sys.executable, "-m", "flowrt", "run", "noop:noop", str(source), "-o", str(output), "--quiet"]
    arguments += ["--max-concurrency", "1000", "--executor", executor]
    if journal:
        arguments += ["--journal", str(folder / "journal")]
    path = os.pathsep.join([str(folder), *sys.path])
    child = os.spawnve(os.P_NOWAIT, sys.executable, arguments, {**os.environ, "PYTHONPATH": path})  # noqa: S606
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"flowrt run ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure each way once, and print microseconds of CPU an item."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "noop.py").write_text("async def noop(item):\n    return item['x']\n", "utf-8")
        for executor, journal in _WAYS:
            more_s = _cpu_s(folder, _MANY, executor, journal=journal) - _cpu_s(folder, _FEW, executor, journal=journal)
            print(f"{executor}{' with a journal' if journal else ''}: {1e6 * more_s / (_MANY - _FEW):.0f} µs an item")


if __name__ == "__main__":
    main()
