"""The command `flowrt whatif`: replays a recording under other settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from flowrt.cli.commands.report import as_command_error
from flowrt.cli.exit_codes import CommandError, say
from flowrt.cli.options.param_types import HEDGE, RATE, SECONDS
from flowrt.errors import one_line
from flowrt.recording.errors import RecordingError

if TYPE_CHECKING:
    from flowrt.policies import Hedge, RateLimit
    from flowrt.whatif.figures import Forecast, Sweep
    from flowrt.whatif.recorded_attempts import RecordedAttempts
    from flowrt.whatif.scenario import Plan

__all__ = ["whatif"]

_BAR: Final = 36
_SWEPT: Final = {"max-concurrency": "max_concurrency", "retries": "retries"}

_EXAMPLES = """\b
Examples:
  flowrt run crawl:fetch urls.jsonl -o pages.jsonl --record run.parquet
  flowrt whatif run.parquet --max-concurrency 40
  flowrt whatif run.parquet --rate 600/min --item-timeout 5 --hedge p95 --retries 2
  flowrt whatif run.parquet --sweep max-concurrency=5,10,20,40,80

\b
FILE is a recording, as written by --record and record=. Settings that are not given stay as recorded. No node runs:
the engine and its policies replay the recorded attempts in virtual time.

\b
Exit codes: 0 shown, 2 bad usage or no such file, 65 the file cannot be read.
"""


class _Sweep(click.ParamType[Any]):
    name = "sweep"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        name, _, text = value.partition("=")
        try:
            values = [int(each) for each in text.split(",")]
        except ValueError:
            values = []
        least = 1 if name == "max-concurrency" else 0
        if name not in _SWEPT or not values or min(values) < least:
            self.fail(f"{value!r} is not like max-concurrency=5,10,20 or retries=0,1,2.", param, ctx)
        return _SWEPT[name], values


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--max-concurrency", type=click.IntRange(min=1), metavar="N", help="Maximum number of items at once.")
@click.option(
    "--rate",
    "rates",
    type=RATE,
    multiple=True,
    metavar="AMOUNT/TIME",
    help="Rate limit instead of the recorded ones. Repeat it to apply several.",
)
@click.option("--no-rate", is_flag=True, help="No rate limit.")
@click.option("--item-timeout", type=SECONDS, metavar="S", help="Time limit of one attempt in seconds.")
@click.option("--no-item-timeout", is_flag=True, help="No time limit for attempts.")
@click.option("--retries", type=click.IntRange(min=0), metavar="N", help="Maximum number of retries per item.")
@click.option("--hedge", type=HEDGE, metavar="p95|S", help="Start a second attempt after this time.")
@click.option("--no-hedge", is_flag=True, help="No hedging.")
@click.option(
    "--sweep", "swept", type=_Sweep(), metavar="NAME=A,B,C", help="Replay with several values and mark the knee."
)
@click.option("--price", type=click.FloatRange(min=0), metavar="X", help="Price of one call, to compute the cost.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def whatif(
    file: Path,
    max_concurrency: int | None,
    rates: tuple[RateLimit, ...],
    no_rate: bool,
    item_timeout: float | None,
    no_item_timeout: bool,
    retries: int | None,
    hedge: Hedge | None,
    no_hedge: bool,
    swept: tuple[str, list[int]] | None,
    price: float | None,
    as_json: bool,
) -> None:
    """Predict the result of a recorded run under other settings."""
    from flowrt.whatif.forecast import forecast, recorded_plan, sweep  # noqa: PLC0415  # heavy
    from flowrt.whatif.recorded_attempts import RecordedAttempts  # noqa: PLC0415  # heavy

    for name, given, ruled_out in (
        ("rate", bool(rates), no_rate),
        ("item-timeout", item_timeout is not None, no_item_timeout),
        ("hedge", hedge is not None, no_hedge),
    ):
        if given and ruled_out:
            raise CommandError(f"--{name} and --no-{name} contradict each other: pass one of them")
    try:
        attempts = RecordedAttempts.load(file)
    except RecordingError as exc:
        raise as_command_error(exc) from exc
    changes: dict[str, Any] = {}
    if max_concurrency is not None:
        changes["max_concurrency"] = max_concurrency
    if rates or no_rate:
        changes["rates"] = list(rates)
    if item_timeout is not None or no_item_timeout:
        changes["item_timeout"] = item_timeout
    if retries is not None:
        changes["retries"] = retries
    if hedge is not None or no_hedge:
        changes["hedge"] = hedge
    plan = recorded_plan(attempts).changed(**changes)
    try:
        if swept is None:
            found = forecast(attempts, plan, price=price)
            _show(found.as_dict() if as_json else None, lambda: _table(attempts, plan, found))
        else:
            setting, values = swept
            show = sys.stderr is not None and sys.stderr.isatty()
            curve = sweep(
                attempts,
                plan,
                setting,
                values,
                price=price,
                on_value=lambda value: say(f"{setting} {value}") if show else None,
            )
            _show(curve.as_dict() if as_json else None, lambda: _curve(attempts, curve))
    except RuntimeError as exc:  # the replay is deadlocked
        raise CommandError(str(exc)) from exc


def _show(as_json: dict[str, Any] | None, text: Any) -> None:
    click.echo(text() if as_json is None else json.dumps(as_json, indent=2))


def _table(attempts: RecordedAttempts, plan: Plan, found: Forecast) -> str:
    from flowrt.reporting.units import duration  # noqa: PLC0415  # heavy

    recorded, predicted = found.recorded, found.predicted
    rows: list[tuple[str, str, str, str]] = [("", "recorded", "predicted", "change")]

    def times(label: str, a: float, b: float) -> None:
        rows.append((label, duration(a), duration(b), _change(a, b)))

    def counts(label: str, a: float, b: float, form: str = ",.0f") -> None:
        rows.append((label, format(a, form), format(b, form), _change(a, b)))

    times("makespan", recorded.makespan, predicted.makespan)
    counts("items a second", recorded.throughput, predicted.throughput, ",.1f")
    for name in ("p50", "p95", "p99", "slowest"):
        times(f"item {name}", getattr(recorded, name), getattr(predicted, name))
    times("waits for rate limits", recorded.throttled, predicted.throttled)
    counts("calls", recorded.calls, predicted.calls)
    times("time in calls", recorded.busy, predicted.busy)
    if recorded.cost is not None and predicted.cost is not None:
        counts("cost", recorded.cost, predicted.cost, ",.2f")
    counts("items tried again", recorded.retried, predicted.retried)
    for name in ("ok", "failed", "timed_out", "cancelled"):
        a, b = getattr(recorded, name), getattr(predicted, name)
        if a or b or name in ("ok", "failed"):
            counts(name.replace("_", " "), a, b)
    title = f"{one_line(attempts.detail.name)}: {_settings(attempts, plan)}"
    return "\n".join([title, "", *_aligned(rows), "", *(f"- {note}" for note in found.notes)])


def _settings(attempts: RecordedAttempts, plan: Plan) -> str:
    moves = plan.limit_as_recorded and len(attempts.meta.get("limits", [])) > 1
    parts = [f"max_concurrency {'as recorded, up to ' if moves else ''}{plan.max_concurrency:,}"]
    parts += [f"rate {rate:g} in {per:g} s" for rate, per, _, _ in plan.rates]
    if plan.item_timeout is not None:
        parts.append(f"item_timeout {plan.item_timeout:g} s")
    if plan.retry is not None:
        parts.append(f"{plan.retry.attempts - 1} retries")
    if plan.hedge is not None:
        parts.append(f"hedge {plan.hedge.after}")
    return ", ".join(parts)


def _change(before: float, after: float) -> str:
    if before == after:
        return "="
    if not before:
        return "new"
    ratio = after / before
    if ratio >= 2:
        return f"{ratio:,.1f}x"
    return f"{100 * (ratio - 1):+.1f} %" if abs(ratio - 1) >= 0.0005 else "="


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def _curve(attempts: RecordedAttempts, curve: Sweep) -> str:
    from flowrt.reporting.units import duration  # noqa: PLC0415  # heavy

    longest = max(point.figures.makespan for point in curve.points)
    width = max(len(str(point.value)) for point in curve.points)
    lines = [f"{one_line(attempts.detail.name)}: makespan by {curve.setting}", ""]
    for point in curve.points:
        figures = point.figures
        bar = "█" * max(1, round(_BAR * figures.makespan / longest))
        mark = "  <- knee" if point.value == curve.knee else ""
        failed = figures.failed + figures.timed_out
        lost = f", {failed:,} not ok" if failed else ""
        lines.append(
            f"{point.value:>{width}}  {bar:<{_BAR}}  {duration(figures.makespan):>10}  "
            f"p95 {duration(figures.p95)}, {figures.calls:,} calls{lost}{mark}"
        )
    lines += ["", f"recorded: {duration(curve.recorded.makespan)}"]
    if curve.knee is not None:
        lines.append(f"knee: beyond {curve.setting} {curve.knee:,} more gains little")
    return "\n".join([*lines, "", *(f"- {note}" for note in curve.notes)])
