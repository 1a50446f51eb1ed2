"""The bench's command: `python -m bench list`, `run` and `report`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.arms import ARMS
from bench.measure import BenchError, measure
from bench.memory import measure_memory
from bench.report import RESULTS, memory_lines, overhead_lines
from bench.workloads import OVERHEAD

__all__ = ["main"]

SUITES = {
    "overhead": "what an item costs, beside the floor, peers and telemetry by hand",
    "memory": "how memory grows over 1,000,000 streamed items",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those of the command line by default.

    Returns:
        0, or 1 where a run failed.
    """
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure flowrt beside its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is to run")
    run = commands.add_parser("run", help="measure")
    run.add_argument("suites", nargs="+", choices=sorted(SUITES), metavar="SUITE", help=", ".join(SUITES))
    run.add_argument("--quick", action="store_true", help="a tenth of the items, two rounds")
    run.add_argument("--rounds", type=_positive, default=5, help="how often each arm runs (5)")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the samples there")
    run.add_argument("--arm", action="append", choices=[arm.name for arm in ARMS], help="only this arm; repeatable")
    run.add_argument(
        "--workload", action="append", choices=[work.name for work in OVERHEAD], help="only this one; repeatable"
    )
    report = commands.add_parser("report", help="print the tables of earlier runs")
    report.add_argument("files", nargs="*", type=Path, help="the checked-in results by default")
    options = parser.parse_args(arguments)
    if options.command == "list":
        _print([f"{name:10} {title}" for name, title in SUITES.items()])
        _print(["", "workloads of overhead:", *(f"  {work.name:8} {work.title}" for work in OVERHEAD)])
        _print(["", "arms:", *(f"  {arm.name:17} {arm.title}" for arm in ARMS)])
        return 0
    if options.command == "report":
        for path in options.files or sorted(RESULTS.glob("*.json")):
            _print(_lines(json.loads(path.read_text())))
        return 0
    if options.json is not None and len(options.suites) > 1:
        parser.error("--json takes the samples of one suite: run them one by one")
    try:
        for suite in options.suites:
            measured = _run(suite, options)
            _print(_lines(measured))
            if options.json is not None:
                options.json.write_text(json.dumps(measured, indent=1) + "\n")
    except BenchError as exc:
        sys.stderr.write(f"bench: {exc}\n")
        return 1
    return 0


def _run(suite: str, options: argparse.Namespace) -> dict[str, Any]:
    if suite == "memory":
        return measure_memory(100_000 if options.quick else 1_000_000)
    works = [work for work in OVERHEAD if not options.workload or work.name in options.workload]
    if options.quick:
        works = [work.cut(10) for work in works]
    arms = [arm for arm in ARMS if not options.arm or arm.name in options.arm]
    return measure(arms, works, 2 if options.quick else options.rounds, _tell)


def _lines(measured: dict[str, Any]) -> Iterable[str]:
    return memory_lines(measured) if "growth_mib" in measured else overhead_lines(measured)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
