"""A real browser, headless and without a word to the internet, for tests and pictures of the live page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

__all__ = ["chromium"]

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's chromium with a new, empty profile; gone afterwards.

    Raises:
        FileNotFoundError: It is not installed.
    """
    executable = shutil.which("chromium")
    if executable is None:
        raise FileNotFoundError("there is no chromium on the PATH: tools/install-chromium installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()
