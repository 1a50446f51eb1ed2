"""Every example runs and prints what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.docs.test_code_blocks import ROOT, environment
from tools.tutorial import matches

EXAMPLES = ROOT / "examples"
LARGE = {"text_embeddings.py"}
"""Need large packages: `make examples` installs them and runs these too."""
NAMES = {path.name for path in EXAMPLES.glob("*.py")} - (set() if os.environ.get("EXAMPLES") == "all" else LARGE)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_example_prints_what_it_says(name: str, tmp_path: Path) -> None:
    source = (EXAMPLES / name).read_text()
    expected = textwrap.dedent(source.split('"""')[1].partition("Prints:\n\n")[2])
    assert expected, f"{name} does not say what it prints"
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert matches(expected, done.stdout), f"expected:\n{expected}\nprinted:\n{done.stdout}"


def test_notebook_runs_and_shows_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    book = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "outputs are not committed"
    NotebookClient(book, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.data for cell in book.cells for output in cell.get("outputs", ()) if "data" in output]
    bar, table, frame, outputs, report = shown
    assert '<progress value="100" max="100">' in bar["text/html"], "the last state of the bar"
    assert "1 failed" in bar["text/html"]
    assert "99 ok, 1 failed" in table["text/html"]
    assert "and 90 more" in table["text/html"]
    assert "no such word" in frame["text/html"]
    assert outputs["text/plain"] == "['elbatalsnartnu']"
    assert "<details" in report["text/html"]


def test_every_example_is_in_the_list() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    names = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert [name for name in names if f"]({name})" not in listed] == []
