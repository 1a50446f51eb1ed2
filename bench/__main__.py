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
from bench.memory import MEMORY, measure_memory
from bench.report import RESULTS, lines
from bench.workloads import OVERHEAD

__all__ = ["main"]

SUITES = {
    "overhead": "what an item costs, beside the floor, peers and telemetry by hand",
    "memory": "how memory grows with the number of items, up to 1,000,000 of them",
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
    run.add_argument("--rounds", type=_positive, metavar="N", help="how often each arm runs (5, with --quick 2)")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the samples there")
    run.add_argument("--arm", action="append", choices=_names(), help="only this arm; repeatable")
    run.add_argument(
        "--workload",
        action="append",
        choices=[work.name for work in OVERHEAD],
        help="only this workload of overhead; repeatable",
    )
    report = commands.add_parser("report", help="print the tables of earlier runs")
    report.add_argument("files", nargs="*", type=Path, help="the checked-in results by default")
    options = parser.parse_args(arguments)
    if options.command == "list":
        _print([f"{name:10} {title}" for name, title in SUITES.items()])
        _print(["", "workloads of overhead:", *(f"  {work.name:17} {work.title}" for work in OVERHEAD)])
        _print(["", "arms of overhead:", *(f"  {arm.name:17} {arm.title}" for arm in ARMS)])
        _print(["", "arms of memory:", *(f"  {arm.name:17} {arm.title}" for arm in MEMORY)])
        return 0
    if options.command == "report":
        for path in options.files or sorted(RESULTS.glob("*.json")):
            try:
                _print([*lines(json.loads(path.read_text())), ""])
            except (OSError, ValueError, KeyError, TypeError) as exc:
                parser.error(f"{path} has no results of this bench: {type(exc).__name__}: {exc}")
        return 0
    if options.json is not None and len(options.suites) > 1:
        parser.error("--json takes the samples of one suite: run them one by one")
    if options.json is not None and not options.json.resolve().parent.is_dir():  # told before minutes of measuring
        parser.error(f"--json: there is no folder {options.json.resolve().parent}")
    try:
        for suite in options.suites:
            measured = _run(suite, options, parser)
            if options.json is not None:
                options.json.write_text(json.dumps(measured, indent=1) + "\n")
            _print(lines(measured))
    except BenchError as exc:
        sys.stderr.write(f"bench: {exc}\n")
        return 1
    return 0


def _run(suite: str, options: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    rounds = options.rounds or (2 if options.quick else 5)
    cut = 10 if options.quick else 1
    chosen = options.arm or _names()
    if suite == "memory":
        streams = [each for each in MEMORY if each.name in chosen]
        if not streams:
            parser.error(f"memory has no arm {' or '.join(chosen)}: {', '.join(each.name for each in MEMORY)}")
        return measure_memory(streams, rounds, cut, _tell)
    arms = [each for each in ARMS if each.name in chosen]
    if not arms:
        parser.error(f"overhead has no arm {' or '.join(chosen)}: {', '.join(each.name for each in ARMS)}")
    works = [work.cut(cut) for work in OVERHEAD if not options.workload or work.name in options.workload]
    return measure(arms, works, rounds, _tell)


def _names() -> list[str]:
    return list(dict.fromkeys([*(each.name for each in ARMS), *(each.name for each in MEMORY)]))


def _print(printed: Iterable[str]) -> None:
    for line in printed:
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
