"""The command `flowrt dashboards export`: Grafana dashboards, Prometheus rules and provisioning files."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from flowrt.cli.exit_codes import CommandError

__all__ = ["dashboards"]

_GRAFANA: Final = "http://localhost:3000"
_EXPORTED: Final = ("alertmanager", "compose.yaml", "grafana", "prometheus", "tempo")
_EDITED: Final = "flowrt.objectives.yaml"

_EXAMPLES: Final = f"""\b
Examples:
  flowrt dashboards export monitoring
  flowrt dashboards export monitoring --grafana-url https://grafana.example.com
  flowrt dashboards export monitoring --force

\b
What is written:
  grafana/dashboards/      the dashboards, as JSON to import or to provision
  grafana/provisioning/    data sources, and the folder of the dashboards
  prometheus/              prometheus.yml, recording rules, alerts, and {_EDITED}
  alertmanager/, tempo/    minimal configuration
  compose.yaml             the whole stack: docker compose up

\b
{_EDITED} holds your service level objectives. Edit it: it is never overwritten.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dashboards() -> None:
    """Grafana dashboards, Prometheus rules and alerts."""


@dashboards.command(epilog=_EXAMPLES, short_help="Write the dashboards, rules and provisioning files to a folder.")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--grafana-url",
    default=_GRAFANA,
    show_default=True,
    metavar="URL",
    help="URL of your Grafana, for the links from alerts to runbooks and dashboards.",
)
@click.option("--force", is_flag=True, help="Replace files that differ from this version.")
def export(folder: Path, grafana_url: str, force: bool) -> None:
    """Write the dashboards, rules and provisioning files of this version to DIR.

    If files in DIR differ from this version, the command names them and writes nothing, unless --force is given.
    """
    parts = urlsplit(grafana_url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise CommandError(f"--grafana-url must be a URL like https://grafana.example.com, not {grafana_url!r}")
    contents = {
        path: source.read_text(encoding="utf-8").replace(_GRAFANA, grafana_url.rstrip("/")) for path, source in _files()
    }
    try:
        kept, differing = _compare(folder, contents)
        if differing and not force:
            raise CommandError(
                f"{folder} holds files that differ from this version ({', '.join(differing)}):"
                " name another folder, or pass --force to replace them"
            )
        for path, text in contents.items():
            if path not in kept:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise CommandError(f"cannot write to {folder}: {exc.strerror or exc}") from exc
    note = "".join(f"; {path} was kept" for path in kept)
    click.echo(f"{len(contents) - len(kept)} files written to {folder}{note}", err=True)


def _files() -> Iterator[tuple[str, Traversable]]:
    """Yield the path and source of each file, from the wheel or from the checkout of an editable install."""
    packaged = files("flowrt") / "dashboards_data"
    folder: Traversable = packaged if packaged.is_dir() else Path(__file__).parents[3] / "dashboards"
    for name in _EXPORTED:
        entry = folder / name
        if entry.is_dir():
            yield from _walk(entry, f"{name}/")
        else:
            yield name, entry


def _walk(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda found: found.name):
        path = f"{above}{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, f"{path}/")
        else:
            yield path, entry


def _compare(folder: Path, contents: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the existing files that differ: the user's own, which is kept, and the others."""
    differing = [
        path
        for path, text in contents.items()
        if (folder / path).exists() and (folder / path).read_text(encoding="utf-8", errors="replace") != text
    ]
    kept = [path for path in differing if path.endswith(_EDITED)]
    return kept, [path for path in differing if path not in kept]
