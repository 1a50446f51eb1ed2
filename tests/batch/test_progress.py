"""Progress bars: HTML in a notebook, rich on a terminal."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from flowrt import BatchProcessor
from flowrt.batch.notebook_bar import NotebookBar, in_notebook
from flowrt.batch.progress_bar import ProgressBar, make_progress_bar

Run = Callable[[Any], Any]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """HTML texts that a notebook displays, one per update."""
    shown: list[str] = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=True)  # type: ignore[attr-defined]
    display.HTML = lambda text: text  # type: ignore[attr-defined]

    def show(text: str, display_id: bool) -> Any:
        assert display_id
        shown.append(text)
        return SimpleNamespace(update=shown.append)

    display.display = show  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def test_notebook_shows_a_bar_that_ends_with_the_batch(pages: list[str], run_virtual: Run) -> None:
    assert isinstance(make_progress_bar(), NotebookBar)
    processor = BatchProcessor(asyncio.sleep, 2, name="<b>name</b>")
    run_virtual(processor.batch([0.5, 0.5, "wrong", 0.5], progress=True))
    assert len(pages) > 4
    assert '<progress value="0" max="4">' in pages[0]
    assert '<progress value="4" max="4">' in pages[-1]
    assert "4 of 4, 1 failed" in pages[-1]
    assert all("<b>name" not in page for page in pages)


def test_notebook_shows_a_count_if_the_number_of_items_is_unknown(pages: list[str], run_virtual: Run) -> None:
    run_virtual(BatchProcessor(asyncio.sleep).batch((0.1 for _ in range(3)), progress=True))
    assert "progress" not in pages[-1]
    assert "3, 0 failed" in pages[-1]


def test_terminal_is_not_taken_for_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    assert isinstance(make_progress_bar(), ProgressBar)
    ipython = SimpleNamespace(get_ipython=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "IPython", ipython)  # type: ignore[arg-type]
    assert not in_notebook()


@pytest.mark.parametrize("name", ["GET [/items]", "[link=http://evil.example]x[/link]", "\x1b]0;owned\x07\x1b[2Jx"])
def test_batch_name_is_not_read_as_markup_on_a_terminal(name: str, run: Run) -> None:
    screen = io.StringIO()
    bar = ProgressBar(Console(file=screen, force_terminal=True, width=120))
    run(BatchProcessor(asyncio.sleep, name=name, instruments=[bar]).batch([0.15, 0.15]))
    shown = screen.getvalue()
    assert "]0;" not in shown, "the window title is not set"
    assert "]8;" not in shown, "no hyperlink is written"
    assert "\x1b[2J" not in shown, "the screen is not cleared"
    assert "in flight" in shown, "the bar was drawn"
