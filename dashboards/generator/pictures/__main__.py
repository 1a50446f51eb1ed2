"""`python -m dashboards.generator.pictures`: draw every dashboard with data of a real Prometheus.

For a minute all is well; then a node goes wrong. Rules run twenty times as fast as in earnest, so that there are alerts
and burning budgets to be seen: where a panel says 1h, the picture shows 3 minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Error

from dashboards.generator.files import FOLDER
from dashboards.generator.pictures.answers import answers_of, marks_of
from dashboards.generator.servers import Servers
from dashboards.generator.windows import Time
from tools.browser import chromium

_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parents[2]
_BUILT: Final = _ROOT / ".pictures"
_PICTURES: Final = _ROOT / "docs" / "pictures"
_FASTER: Final = 20
_WIDTH: Final = 1500
_DRAWN_MS: Final = 60_000
_CHOSEN: Final = {"flowrt-batch": {"batch": "airports"}, "flowrt-node": {"batch": "airports", "node": "enrich"}}
_COMMON_JS: Final = ("@grafana/ui", "@grafana/data", "@grafana/schema")
_DRAWABLE: Final = ("flowrt-overview", "flowrt-batch", "flowrt-node", "flowrt-runtime", "flowrt-slo")

_PAGE: Final = """<!doctype html>
<meta charset="utf-8">
<style>body {{ margin: 0; background: #111217; font-family: "DejaVu Sans", sans-serif }}</style>
<style>{style}</style>
<div id="root"></div>
<script>window.PICTURE = {data};</script>
<script>{code}</script>
"""


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.generator.pictures", description=main.__doc__)
    parser.add_argument("--well", type=float, default=60.0, help="for how many seconds all is well")
    parser.add_argument("--wrong", type=float, default=90.0, help="for how many seconds it is not")
    parser.add_argument("--keep", type=Path, help="a folder to keep the answers in, or to draw them from again")
    chosen = parser.parse_args()
    code = _bundle()
    kept = chosen.keep
    if kept is not None and (kept / "flowrt-slo.json").exists():
        pictures = {name: json.loads((kept / f"{name}.json").read_text()) for name in _DRAWABLE}
    else:
        pictures = _record(chosen.well, chosen.wrong)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (kept / f"{name}.json").write_text(json.dumps(picture))
    _draw(pictures, code)


def _bundle() -> str:
    """The drawing's code in one piece, with Grafana's components in it."""
    _BUILT.mkdir(exist_ok=True)
    wanted = (_HERE / "package.json").read_text()
    present = _BUILT / "package.json"
    if not (_BUILT / "node_modules").exists() or not present.exists() or present.read_text() != wanted:
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("npm is needed to fetch Grafana's components: install Node.js 20 or newer")
        present.write_text(wanted)
        subprocess.run([npm, "install", "--ignore-scripts", "--no-package-lock"], cwd=_BUILT, check=True)  # noqa: S603
    shutil.copy(_HERE / "draw.tsx", _BUILT)
    subprocess.run(  # noqa: S603
        [
            str(_BUILT / "node_modules" / ".bin" / "esbuild"),
            "draw.tsx",
            "--bundle",
            "--minify",
            "--format=iife",
            "--jsx=automatic",
            "--charset=utf8",
            "--log-level=warning",
            "--loader:.svg=text",
            "--loader:.ttf=empty",
            "--loader:.css=empty",
            # the CommonJS builds: in the others, esbuild takes what old packages export by default for the whole module
            *(f"--alias:{name}=./node_modules/{name}/dist/cjs/index.cjs" for name in _COMMON_JS),
            '--define:process.env.NODE_ENV="production"',
            "--outfile=draw.js",
        ],
        cwd=_BUILT,
        check=True,
    )
    return (_BUILT / "draw.js").read_text()


def _record(well_s: float, wrong_s: float) -> dict[str, Any]:
    """Run the trial and keep what Prometheus answers at its end."""
    boards = {name: json.loads((FOLDER / "grafana" / "dashboards" / f"{name}.json").read_text()) for name in _DRAWABLE}
    with tempfile.TemporaryDirectory() as folder, _trial(well_s) as target:
        began_s = time.time()
        with Servers(Path(folder), [target], scrape_s=1.0, time=Time(_FASTER)) as servers:
            time.sleep(well_s + wrong_s)
            start_s, end_s, api = began_s + 8.0, time.time(), servers.prometheus
            return {
                name: {
                    "board": board,
                    "answers": answers_of(board, api, start_s, end_s, _CHOSEN.get(name, {})),
                    "marks": marks_of(board, api, start_s, end_s),
                    "from": start_s,
                    "to": end_s,
                    "width": _WIDTH,
                    "chosen": [
                        (variable.get("label", variable["name"]), _CHOSEN.get(name, {}).get(variable["name"], "All"))
                        for variable in board["templating"]["list"]
                        if variable["type"] == "query"
                    ],
                }
                for name, board in boards.items()
            }


@contextmanager
def _trial(well_s: float) -> Iterator[str]:
    """The trial, and where it is scraped."""
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


def _draw(pictures: dict[str, Any], code: str) -> None:
    style = (_BUILT / "node_modules" / "uplot" / "dist" / "uPlot.min.css").read_text()
    _PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        for name, picture in pictures.items():
            data = json.dumps(picture).replace("</", "<\\/")
            page_file = Path(folder) / f"{name}.html"
            page_file.write_text(_PAGE.format(data=data, style=style, code=code.replace("</script", "<\\/script")))
            page = browser.new_page(viewport={"width": _WIDTH, "height": 900}, timezone_id="UTC")
            page.on("pageerror", _report)
            page.goto(page_file.as_uri())
            page.wait_for_function("window.DRAWN", timeout=_DRAWN_MS)
            path = _PICTURES / f"{name}.png"
            page.screenshot(path=path, full_page=True)
            page.close()
            sys.stdout.write(f"written: {path.relative_to(_ROOT)}\n")


def _report(error: Error) -> None:
    sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main()
