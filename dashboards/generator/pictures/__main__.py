"""`python -m dashboards.generator.pictures`: draw every dashboard with the data of a real Prometheus.

All is well for a minute; then nodes fail. Rules run twenty times as fast as in production, so that alerts fire and
budgets burn: where a panel says 1h, the picture shows 3 minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dashboards.generator.files import FOLDER
from dashboards.generator.pictures.drawing import Drawing, recorded
from dashboards.generator.servers import Servers
from dashboards.generator.windows import Time
from tools.browser import chromium

_ROOT: Final = FOLDER.parent
_PICTURES: Final = _ROOT / "docs" / "pictures"
_FASTER: Final = 20
_CHOSEN: Final = {
    "flowrt-batch": {"batch": "airports"},
    "flowrt-node": {"batch": "airports", "node": "enrich"},
    "flowrt-small": {"batch": "invoices|photos|quotes"},
}
_DRAWABLE: Final = ("flowrt-overview", "flowrt-batch", "flowrt-small", "flowrt-node", "flowrt-runtime", "flowrt-slo")


def main() -> int:
    """Draw the pictures of the documentation.

    Returns:
        Exit code: 0 success, 1 a panel was not drawn.
    """
    parser = argparse.ArgumentParser(prog="python -m dashboards.generator.pictures", description=main.__doc__)
    parser.add_argument("--well", type=float, default=60.0, help="seconds without failures")
    parser.add_argument("--wrong", type=float, default=90.0, help="seconds with failures")
    parser.add_argument("--keep", type=Path, help="folder that keeps the answers; with answers in it, draw those")
    chosen = parser.parse_args()
    kept = chosen.keep
    if kept is not None and (kept / f"{_DRAWABLE[-1]}.json").exists():
        pictures = {name: json.loads((kept / f"{name}.json").read_text()) for name in _DRAWABLE}
    else:
        pictures = _record(chosen.well, chosen.wrong)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (kept / f"{name}.json").write_text(json.dumps(picture))
    return _draw(pictures)


def _record(well_s: float, wrong_s: float) -> dict[str, Any]:
    """Run the trial and return each dashboard with Prometheus's answers at its end."""
    with tempfile.TemporaryDirectory() as folder, _trial(well_s) as target:
        began_s = time.time()
        with Servers(Path(folder), [target], scrape_s=1.0, time=Time(_FASTER)) as servers:
            time.sleep(well_s + wrong_s)
            start_s, end_s = began_s + 8.0, time.time()
            return {
                name: recorded(
                    json.loads((FOLDER / "grafana" / "dashboards" / f"{name}.json").read_text()),
                    servers.prometheus,
                    start_s,
                    end_s,
                    _CHOSEN.get(name, {}),
                )
                for name in _DRAWABLE
            }


@contextmanager
def _trial(well_s: float) -> Iterator[str]:
    """Run the trial; the value is its scrape target."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "dashboards.generator.trial", f"{well_s:g}"],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield urlsplit(process.stdout.readline() if process.stdout else "").netloc
    finally:
        process.kill()
        process.communicate()


def _draw(pictures: dict[str, Any]) -> int:
    failed = 0
    _PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        drawing = Drawing(browser, Path(folder))
        for name, picture in pictures.items():
            path = _PICTURES / f"{name}.png"
            for panel, error in drawing.draw(picture, path).items():
                failed = 1
                sys.stderr.write(f"{name}: {panel}: {error}\n")
            sys.stdout.write(f"written: {path.relative_to(_ROOT)}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
