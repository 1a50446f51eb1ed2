"""Report as one self-contained HTML file that loads nothing from the network."""

from __future__ import annotations

import json
from typing import Any, Final

from flowrt._util.trace_url import check_trace_url, trace_link
from flowrt._version import __version__
from flowrt.reporting.answers import what_failed, why_slow
from flowrt.reporting.charts import charts_of, library
from flowrt.reporting.figures import Detail
from flowrt.reporting.html_shell import document, embed
from flowrt.reporting.html_shell import text as _text
from flowrt.reporting.palette import BOUND, STATUS
from flowrt.reporting.units import duration, percent

__all__ = ["page_of"]

_CHARTS: Final = {
    "throughput": ("Throughput", "Finished items per second, by status."),
    "slots": (
        "Slots",
        "Items running at the same time. After the dashed line no item is left to start.",
    ),
    "bound": ("What limited the batch", "Each instant of the wall time has exactly one cause."),
    "lanes": ("Attempts by slot", ""),
    "latency": ("Service time over time", "Of the attempts that ended in each interval."),
    "histogram": ("Distribution of service times", "Logarithmic axis: a second peak means a second kind of item."),
}
_MAX_CAUSES: Final = 50
_MAX_STALLS: Final = 20


def page_of(detail: Detail, trace_url: str | None = None) -> str:
    """Return the whole page as HTML.

    Args:
        detail: Figures of the batch.
        trace_url: URL of a trace, with `{trace_id}` in place of its id, for links; None for no links.

    Raises:
        MissingExtraError: bokeh is not installed.
        ValueError: `trace_url` is not an http or https URL with `{trace_id}`.
    """
    check_trace_url(trace_url)
    charts = charts_of(detail)
    data, places = embed(charts)
    inner = [
        _header(detail),
        "<main>",
        _answers(detail),
        _tiles(detail),
        _ledger(detail),
        _causes(detail, trace_url),
        _stalls(detail),
        _charts(charts, places, detail),
        _slowest(detail, trace_url),
        _settings(detail),
        "</main>",
        f"<footer>flowrt {_text(detail.versions.get('flowrt', __version__))}</footer>",
    ]
    return document(f"{detail.name}: flowrt report", inner, data, library() if charts else None)


def _header(detail: Detail) -> str:
    state = detail.status or ("failed" if detail.failed else "ok")
    started = f"<span>{_text(detail.started_at.replace('T', ' ')[:19])} UTC</span>" if detail.started_at else ""
    node = f"<span>node {_text(detail.node)}</span>" if detail.node and detail.node != detail.name else ""
    source = f"<span>{_text(detail.source)}</span>" if detail.source not in ("", detail.name) else ""
    return (
        f'<header><h1>{_text(detail.name)} <b class="state {_text(state)}">{_text(state)}</b></h1>'
        f'<p class="about">{started}{node}{source}</p>'
        '<button id="theme" type="button" title="Light or dark" aria-label="Light or dark">◐</button></header>'
    )


def _answers(detail: Detail) -> str:
    cards = []
    for title, kind, (headline, lines) in (
        ("What failed", "bad" if detail.failed else "good", what_failed(detail)),
        ("Why it took as long as it did", "plain", why_slow(detail)),
    ):
        points = "".join(f"<li>{_text(line)}</li>" for line in lines)
        cards.append(
            f'<section class="answer {kind}"><h2>{title}</h2><p>{_text(headline)}</p>'
            + (f"<ul>{points}</ul>" if points else "")
            + "</section>"
        )
    return f'<div class="answers">{"".join(cards)}</div>'


def _tiles(detail: Detail) -> str:
    tiles = [("items", f"{detail.total:,}", f"{percent(detail.succeeded / detail.total)} ok" if detail.total else "")]
    if detail.wall_s:
        tiles.append(("wall time", duration(detail.wall_s), f"{detail.throughput:,.1f} items/s"))
    if detail.service:
        s = detail.service
        tiles.append(("median", duration(s["p50"]), "service time"))
        tiles.append(("p95", duration(s["p95"]), f"p99 {duration(s['p99'])}"))
        tiles.append(("slowest", duration(s["max"]), "one attempt"))
    retried = detail.retries.get("items", 0)
    tiles.append(("attempts", f"{detail.attempts:,}", f"{retried:,} items retried"))
    if detail.speedup:
        speedup = detail.speedup
        if speedup["high"] is None:
            note = "no interval from a sample of 1"
        else:
            note = f"{speedup['low']:,.1f} to {speedup['high']:,.1f}×, by {speedup['method']}"
        measured = "not known" if speedup["measured"] is None else f"{speedup['measured']:,.1f}×"
        tiles.append(("speedup", measured, note))
        tiles.append(("claimed", f"{speedup['claimed']:,.1f}×", "times / wall time"))
    shown = "".join(
        f"<div><dt>{_text(label)}</dt><dd>{_text(value)}</dd><small>{_text(note)}</small></div>"
        for label, value, note in tiles
    )
    return f'<dl class="tiles">{shown}</dl>'


def _ledger(detail: Detail) -> str:
    spent = [(cause, s) for cause, s in detail.bound.items() if s > 0 and cause in BOUND]
    if not spent or not detail.wall_s:
        return ""
    whole = sum(s for _, s in spent)
    bar = "".join(
        f'<i style="flex-grow:{s / whole:.6f};background:{BOUND[c].color}" title="{BOUND[c].label}: {duration(s)}"></i>'
        for c, s in spent
    )
    legend = "".join(
        f'<li><i style="background:{BOUND[c].color}"></i>{BOUND[c].label} <b>{percent(s / whole)}</b> '
        f"<small>{duration(s)}</small></li>"
        for c, s in sorted(spent, key=lambda each: -each[1])
    )
    return (
        f'<section><h2>Where the time went</h2><div class="bar">{bar}</div><ul class="legend">{legend}</ul></section>'
    )


def _charts(charts: dict[str, Any], places: dict[str, str], detail: Detail) -> str:
    sections = []
    for name in charts:
        title, note = _CHARTS[name]
        if name == "lanes" and detail.lanes is not None:
            lanes = detail.lanes
            some = f"{len(lanes.shown)} of {lanes.slots:,} slots" if len(lanes.shown) < lanes.slots else "Every slot"
            note = f"{some}, {lanes.attempts:,} attempts. Zoom in for detail; click a legend entry to hide its bars."
        sections.append(
            f'<section class="chart"><h2>{title}</h2><p class="note">{note}</p>'
            f'<div class="plot" id="{_text(places[name])}"></div></section>'
        )
    return "".join(sections)


def _trace(trace_id: str | None, trace_url: str | None) -> str:
    """Return a trace id as HTML: a link if there is a template."""
    code = f'<code class="id">{_text(trace_id or "")}</code>'
    link = trace_link(trace_url, trace_id)
    return code if link is None else f'<a href="{_text(link)}" target="_blank" rel="noopener noreferrer">{code}</a>'


def _causes(detail: Detail, trace_url: str | None) -> str:
    if not detail.causes:
        return ""
    rows = []
    most = max(max(cause["items"], cause["attempts"]) for cause in detail.causes) or 1
    for cause in detail.causes[:_MAX_CAUSES]:
        examples = "".join(
            f"<li>item {example['index']:,}, attempt {_text(example['attempt'])}: "
            f"<code>{_text(example['error'])}</code>"
            + (f" <small>trace {_trace(example['trace_id'], trace_url)}</small>" if example["trace_id"] else "")
            + "</li>"
            for example in cause["examples"]
        )
        where = f"<small>{_text(cause['where'])}</small>" if cause.get("where") else ""
        status = f' <span class="tag">HTTP {_text(cause["http_status"])}</span>' if cause.get("http_status") else ""
        rows.append(
            f'<tr><td class="n">{cause["items"]:,}</td><td class="n">{cause["attempts"]:,}</td>'
            f'<td class="share"><i style="width:{100 * cause["attempts"] / most:.1f}%"></i>'
            f'<i class="items" style="width:{100 * cause["items"] / most:.1f}%"></i></td>'
            f"<td><details><summary><b>{_text(cause['type'])}</b>{status} {_text(cause['text'])} {where}</summary>"
            f"<ul>{examples}</ul></details></td></tr>"
        )
    more = len(detail.causes) - _MAX_CAUSES
    note = f'<p class="note">and {more:,} more causes</p>' if more > 0 else ""
    return (
        '<section><h2>What failed, by cause</h2><div class="scroll"><table><thead><tr><th class="n">items</th>'
        f'<th class="n">attempts</th><th aria-label="share"></th><th>cause, with examples</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
        f"</div>{note}</section>"
    )


def _stalls(detail: Detail) -> str:
    if not detail.stalls:
        return ""
    rows = []
    for stall in detail.stalls[:_MAX_STALLS]:
        stack = stall.get("stack")
        shown = f"<details><summary>stack</summary><pre>{_text(stack)}</pre></details>" if stack else ""
        who = stall.get("culprit", stall.get("node", ""))
        rows.append(
            f'<tr><td class="n">{duration(float(stall.get("duration_s", 0.0)))}</td><td>{_text(who)} {shown}</td>'
            f'<td class="n">{stall.get("victims", 0):,}</td>'
            f'<td class="n">{duration(float(stall.get("delayed_s", 0.0)))}</td></tr>'
        )
    return (
        '<section><h2>What blocked the loop</h2><div class="scroll"><table><thead><tr><th class="n">duration</th>'
        '<th>caused by</th><th class="n">items delayed</th><th class="n">sum of delays</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _slowest(detail: Detail, trace_url: str | None) -> str:
    items = detail.slowest[:20]
    if not items:
        return ""
    # a column without values, or that repeats another one, only takes space
    total = any(item["duration"] not in (None, item["service"]) for item in items)
    traced = any(item["trace_id"] for item in items)
    rows = []
    for item in items:
        status = _text(item["status"].replace("_", " "))
        dot = f'<i class="dot" style="background:{STATUS.get(item["status"], "")}"></i>'
        cells = [f'<td class="n">{item["index"]:,}</td>']
        if total:
            cells.append(f'<td class="n">{"-" if item["duration"] is None else duration(item["duration"])}</td>')
        cells.append(f'<td class="n">{duration(item["service"])}</td><td class="n">{_text(item["attempts"])}</td>')
        cells.append(f'<td class="end">{dot}{status}</td>')
        if traced:
            cells.append(f"<td>{_trace(item['trace_id'], trace_url)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = ['<th class="n">item</th>', '<th class="n">total</th>' if total else ""]
    heads.append('<th class="n">last attempt</th><th class="n">attempts</th><th>ended</th>')
    heads.append("<th>trace</th>" if traced else "")
    return (
        '<section><h2>Slowest items</h2><div class="scroll"><table><thead><tr>'
        f"{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _setting(value: Any) -> str:
    """Return a setting as text: a policy by its fields, without those that are not set."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={_setting(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list):
        return "; ".join(map(_setting, value)) if value and isinstance(value[0], dict) else json.dumps(value)
    return str(value)


def _settings(detail: Detail) -> str:
    rows = []
    if detail.command:
        rows.append(("command", f"<code>{_text(detail.command)}</code>"))
    if detail.started_at:
        rows.append(("started", f"{_text(detail.started_at.replace('T', ' ')[:19])} UTC"))
    for name, value in detail.settings.items():
        if value is not None and value != []:
            rows.append((name.replace("_", " "), f"<code>{_text(_setting(value))}</code>"))
    if detail.versions:
        rows.append(("versions", _text(", ".join(f"{name} {version}" for name, version in detail.versions.items()))))
    if not rows:
        return ""
    shown = "".join(f"<div><dt>{_text(name)}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f'<section><h2>How it was run</h2><dl class="run">{shown}</dl></section>'
