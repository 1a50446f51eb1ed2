"""Hooks of the documentation's site: links that lead out of docs/.

In a checkout they lead to files. On the site they lead to the repository that pyproject.toml names, and are plain text
if it names none.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["on_config", "on_page_markdown"]

_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

_OUTSIDE = re.compile(r"\[((?:[^\[\]]|\\[\[\]])+)\]\(((?:\.\./)+)([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Take the repository's URL from pyproject.toml."""
    project = tomllib.loads(_PYPROJECT.read_text())
    config.repo_url = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"] or None
    config.repo_name = config.site_name
    return config


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001  # mkdocs' signature
    """Rewrite the links of a page that lead to files outside of docs/."""
    depth = page.file.src_uri.count("/") + 1

    def rewrite(found: re.Match[str]) -> str:
        text, up, path = found.groups()
        if up.count("../") < depth:  # within docs/
            return found[0]
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})" if config.repo_url else text

    return _OUTSIDE.sub(rewrite, markdown)
