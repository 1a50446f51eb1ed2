"""Hooks of the documentation's site: links that lead out of docs/.

In a checkout they lead to files. On the site they lead to the repository if mkdocs.yml names it as `repo_url`, and are
plain text otherwise.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["on_page_markdown"]

_OUTSIDE = re.compile(r"\[((?:[^\[\]]|\\[\[\]])+)\]\(((?:\.\./)+)([^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001  # mkdocs' signature
    """Rewrite the links of a page that lead to files outside of docs/."""
    depth = page.file.src_uri.count("/") + 1

    def rewrite(found: re.Match[str]) -> str:
        text, up, path = found.groups()
        if up.count("../") < depth:  # within docs/
            return found[0]
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})" if config.repo_url else text

    return _OUTSIDE.sub(rewrite, markdown)
