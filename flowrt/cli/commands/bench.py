"""The command `flowrt bench`: measures how many items at once a node should run."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from flowrt.cli.exit_codes import ALL_OK, SOME_FAILED, UNREADABLE_INPUT, CommandError, say
from flowrt.cli.io.readers import open_input
from flowrt.cli.options.input import FORMATS, Format, InputOptions
from flowrt.cli.options.param_types import SECONDS, count_option, seconds_option
from flowrt.cli.options.telemetry import ExportMonitor, service_name

if TYPE_CHECKING:
    from flowrt.loadtest.comparison import Baseline
    from flowrt.loadtest.measurement import Measurement
    from flowrt.loadtest.plan import Plan
    from flowrt.loadtest.run import Run
    from flowrt.model.node import BaseNode

__all__ = ["bench"]

_STDOUT: Final = "-"
_INTERRUPTED: Final = (129, 130, 143)
_MAX_ITEMS: Final = 10_000  # items of the input kept in memory and reused

_EXAMPLES = """\b
Examples:
  flowrt bench crawl:fetch urls.jsonl
  flowrt bench crawl:fetch urls.jsonl --concurrency 1,2,5,10,20,50 --latency-budget p95=500ms
  flowrt bench crawl:fetch urls.jsonl --arrival-rate 10,50,100 --max-requests 5000 --duration 60
  flowrt bench crawl:fetch urls.jsonl --json today.json --baseline yesterday.json

\b
The node runs for real, over the items of INPUT again and again. Bound the run with --max-requests and --duration, and
call a test service.

\b
Exit codes: 0 measured, 1 worse than the baseline, or no setting within the budget, 2 bad usage, 65 unreadable input,
129, 130 and 143 interrupted.
"""


class _Numbers(click.ParamType[Any]):
    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if value == "auto" and self._kind is int:
            return ()
        try:
            return tuple(self._kind(each) for each in value.split(","))
        except ValueError:
            also = ", nor auto" if self._kind is int else ""
            self.fail(f"{value!r} is not a list of numbers, like 1,2,5,10{also}.", param, ctx)


class _Parsed(click.ParamType[Any]):
    """Value parsed by a function of `flowrt.loadtest.plan`, which is imported on use."""

    def __init__(self, name: str, function: str) -> None:
        self.name = name
        self._function = function

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        from flowrt.loadtest import plan  # noqa: PLC0415  # heavy

        parse: Any = plan
        for part in self._function.split("."):
            parse = getattr(parse, part)
        try:
            return parse(value)
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.argument("node", metavar="MODULE:NODE")
@click.argument("source", metavar="INPUT")
@click.option(
    "--concurrency",
    type=_Numbers(int),
    metavar="1,2,5|auto",
    help="Closed loop at each of these concurrencies; auto, the default, doubles until throughput stops growing.",
)
@click.option(
    "--arrival-rate",
    type=_Numbers(float),
    metavar="R,R",
    help="Open loop at each of these rates per second; latency counts from the intended start of an item.",
)
@seconds_option("--step", 5.0, "Duration of one pass in seconds.")
@count_option("--passes", 2, "Passes per setting; their spread is the noise.")
@seconds_option("--duration", 120.0, "Maximum duration in seconds.")
@count_option("--max-requests", 100_000, "Maximum number of items started in all.")
@count_option("--most-concurrency", 1_000, "Maximum concurrency of auto, and of items in flight in an open loop.")
@click.option(
    "--error-budget",
    type=_Parsed("share", "parse_share"),
    default="1%",
    show_default=True,
    metavar="SHARE",
    help="Share of items that may fail.",
)
@click.option(
    "--latency-budget",
    type=_Parsed("budget", "LatencyBudget.parse"),
    metavar="p95=500ms",
    help="Latency that an item may take.",
)
@click.option("--item-timeout", type=SECONDS, metavar="S", help="Time limit of one item in seconds.")
@click.option("--executor", type=click.Choice(["loop", "threads", "processes"]), default="loop", show_default=True)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write all figures as JSON; - is standard output.",
)
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page with charts."
)
@click.option(
    "--baseline", type=click.Path(path_type=Path), metavar="FILE", help="Compare with an earlier --json file."
)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--quiet", is_flag=True, help="Print no line per step.")
@click.option(
    "--input-format", type=click.Choice(FORMATS), help="Format of INPUT; by default from its extension, jsonl for -."
)
def bench(
    node: str,
    source: str,
    json_file: Path | None,
    html_file: Path | None,
    baseline: Path | None,
    overwrite: bool,
    quiet: bool,
    executor: str,
    input_format: Format | None,
    **settings: Any,
) -> None:
    """Measure how many items at once MODULE:NODE should run, by running it over the items of INPUT."""
    from flowrt.cli.options.node_loader import load_node  # noqa: PLC0415  # heavy
    from flowrt.loadtest.comparison import compare  # noqa: PLC0415  # heavy
    from flowrt.loadtest.measurement import Latencies  # noqa: PLC0415  # heavy
    from flowrt.loadtest.output import about, as_json, conclusions, verdict_lines  # noqa: PLC0415  # heavy

    plan = _plan(settings)
    Latencies()  # raises for a missing package before anything runs
    if html_file is not None:
        from flowrt.reporting.charts import library  # noqa: PLC0415  # an extra

        library()
    loaded = load_node(node)
    _check_targets(json_file, html_file, overwrite=overwrite)
    earlier = None if baseline is None else _read_baseline(baseline, plan)
    items = asyncio.run(_read_items(source, input_format))
    run, exit_code = _launch(loaded, items, plan, executor, quiet=quiet)
    verdict, of = None, about(run, node, source, executor)
    if earlier is not None:
        try:
            verdict = compare(run, earlier, of)
        except ValueError as exc:  # the search measured none of the baseline's settings
            run.notes.append(f"not compared with {baseline}: {exc}")
    to_stderr = json_file is not None and str(json_file) == _STDOUT
    for line in (*_table(run), *conclusions(run), *(() if verdict is None else verdict_lines(verdict))):
        click.echo(line, err=to_stderr)
    if json_file is not None:
        _write(json_file, json.dumps(as_json(run, of, verdict), indent=1) + "\n")
    if html_file is not None:
        from flowrt.loadtest.html_page import page_of  # noqa: PLC0415  # an extra

        _write(html_file, page_of(run, node, source, verdict, command=shlex.join(["flowrt", *sys.argv[1:]])))
    worse = run.best is None or (earlier is not None and (verdict is None or verdict.sign == "worse"))
    raise SystemExit(exit_code or (SOME_FAILED if worse else ALL_OK))


def _plan(settings: dict[str, Any]) -> Plan:
    from flowrt.loadtest.plan import Plan  # noqa: PLC0415  # heavy

    concurrencies, rates = settings.pop("concurrency"), settings.pop("arrival_rate") or ()
    if concurrencies == () and rates:
        listed = ",".join(f"{rate:g}" for rate in rates)
        raise CommandError(
            f"--concurrency auto and --arrival-rate {listed} are separate measurements: pass one of them"
        )
    try:
        return Plan(concurrencies=concurrencies or (), arrival_rates=rates, **settings)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc


def _check_targets(json_file: Path | None, html_file: Path | None, *, overwrite: bool) -> None:
    if json_file is not None and json_file == html_file:
        raise CommandError(f"--json and --html are both {str(json_file)!r}: name two files")
    for file in (json_file, html_file):
        if file is None or (file is json_file and str(file) == _STDOUT):
            continue
        folder = file.resolve().parent
        if file.is_dir() or not folder.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
            raise CommandError(
                f"{str(file)!r} cannot be written: name a file in an existing folder that you may write to"
            )
        if file.exists() and not overwrite:
            raise CommandError(f"{str(file)!r} exists: pass --overwrite to replace it")


def _read_baseline(file: Path, plan: Plan) -> Baseline:
    from flowrt.loadtest.comparison import Baseline  # noqa: PLC0415  # heavy

    try:
        baseline = Baseline.of_json(json.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        raise CommandError(f"--baseline {str(file)!r} does not exist") from None
    except (OSError, ValueError) as exc:
        raise CommandError(f"--baseline {str(file)!r} cannot be read: {exc}", UNREADABLE_INPUT) from exc
    try:
        baseline.check(plan)
    except ValueError as exc:
        raise CommandError(f"--baseline {str(file)!r} cannot be compared with: {exc}") from exc
    return baseline


async def _read_items(source: str, form: Format | None) -> list[Any]:
    from flowrt.model import Rejected  # noqa: PLC0415  # heavy

    opened = open_input([source], InputOptions(input_format=form))
    items: list[Any] = []
    try:
        async for item in opened.feed:
            if isinstance(item, Rejected):
                raise CommandError(f"{source}: {item.error}", UNREADABLE_INPUT)
            items.append(item)
            if len(items) >= _MAX_ITEMS:
                say(f"only the first {_MAX_ITEMS:,} items of {source} are used, repeatedly")
                break
    finally:
        await opened.feed.close()
        opened.close()
    if not items:
        raise CommandError(f"{source} has no items", UNREADABLE_INPUT)
    return items


def _launch(node: BaseNode, items: list[Any], plan: Plan, executor: str, *, quiet: bool) -> tuple[Run, int]:
    """Run the measurement. Return it with the exit code: 129, 130 or 143 after a signal, otherwise 0."""
    from flowrt import runtime  # noqa: PLC0415  # heavy
    from flowrt.cli.options.node_context import entered  # noqa: PLC0415  # heavy
    from flowrt.loadtest.load_generator import LoadGenerator  # noqa: PLC0415  # heavy
    from flowrt.loadtest.run import Run  # noqa: PLC0415  # heavy
    from flowrt.loadtest.search import search  # noqa: PLC0415  # heavy

    run = Run(plan, in_process=executor in ("loop", "threads"))

    def stopped() -> bool:
        current = runtime.Runtime.current()
        return current is not None and current.exit_code is not None

    async def main() -> None:
        async with entered(node):
            await search(LoadGenerator(node, items, plan, executor, stopped), run, report_step)

    def report_step(step: Measurement) -> None:
        if not quiet:
            say(_progress(step, plan))

    try:
        with ExportMonitor().watch(printing=True):
            runtime.run(
                main(),
                service_name=service_name(None, "flowrt"),
                log_level="ERROR",
                metrics_port=None,
                on_interrupt="return",
            )
    except SystemExit as exc:
        if exc.code not in _INTERRUPTED:
            raise CommandError(f"the node raised SystemExit({exc.code!r}): a node must not end the process") from exc
        if not run.notes or not run.notes[-1].startswith("interrupted"):  # the signal came within a step
            run.notes.append("interrupted: the active step is not included")
        return run, int(exc.code)
    return run, 0


def _progress(step: Measurement, plan: Plan) -> str:
    from flowrt.loadtest.output import milliseconds  # noqa: PLC0415  # heavy

    what = f"{step.setting:g}/s" if plan.open else f"{step.setting:g} at once"
    latency = milliseconds(step.latencies.at(plan.percentile)) if step.ok else "-"
    figures = f"{step.throughput.value:,.1f} items/s, p{plan.percentile:g} {latency}"
    failed = f", {step.failure_rate:.1%} failed" if step.failed else ""
    stopped = "" if step.outcome == "ok" else f", {step.outcome}"
    return f"{what}: {figures}{failed}{stopped}"


def _table(run: Run) -> Iterator[str]:
    from flowrt.loadtest.output import header, row  # noqa: PLC0415  # heavy

    rows = [header(run), *(row(run, measured) for measured in run.measurements.values())]
    widths = [max(len(each[place]) for each in rows) for place in range(len(rows[0]) - 1)]
    for each in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(each, widths, strict=False)]
        yield "  ".join([*cells, each[-1]]).rstrip()


def _write(file: Path, text: str) -> None:
    if str(file) == _STDOUT:
        click.echo(text, nl=False)
        return
    try:
        file.write_text(text, "utf-8")
    except OSError as exc:
        raise CommandError(f"{str(file)!r} cannot be written: {exc.strerror}") from exc
