"""Build hook of hatchling: the project's URLs, and the README as a package index shows it.

`repository` under `[tool.hatch.metadata.hooks.custom]` in pyproject.toml is the one setting. With it, relative links of
the README lead to the repository, pictures too, and the package has project URLs. Without it, an index would show links
that lead nowhere: they become plain text, and pictures are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

__all__ = ["ProjectMetadata", "readme_for_index"]

_LINK = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`(?!\]\())"  # stays as it is
    r"|(?P<picture>!?)\[(?P<text>[^\[\]]*)\]\((?!\w+:|#)(?P<path>[^)\s]+)\)",
    re.DOTALL,
)


class ProjectMetadata(MetadataHookInterface):
    """Sets the dynamic fields `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the fields to the project's metadata."""
        repository = self.config.get("repository", "").rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": readme_for_index(text, repository)}
        paths = {
            "Repository": "",
            "Documentation": "/blob/main/docs/index.md",
            "Changelog": "/blob/main/CHANGELOG.md",
            "Issues": "/issues",
        }
        metadata["urls"] = {name: f"{repository}{path}" for name, path in paths.items() if repository}


def readme_for_index(text: str, repository: str) -> str:
    """Replace the README's relative links.

    Args:
        text: The README, in Markdown.
        repository: The repository's URL, or an empty string.
    """

    def replace(found: re.Match[str]) -> str:
        if found["code"]:
            return found[0]
        if not repository:
            return "" if found["picture"] else found["text"]
        kind = "raw" if found["picture"] else "blob"
        return f"{found['picture']}[{found['text']}]({repository}/{kind}/main/{found['path']})"

    return _LINK.sub(replace, text)
