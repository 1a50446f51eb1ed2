"""Links between the pages resolve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "bench").glob("*.md")),
    ROOT / "examples" / "README.md",
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that code hosts make of a page's headings."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(page.read_text()))
    return {heading.strip().replace(" ", "-") for heading in plain}


def links_in(page: Path) -> list[str]:
    return LINK.findall(CODE.sub("", page.read_text()))  # code such as `FilterNode[int](name)` has none


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in links_in(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def links_of(page: Path) -> set[Path]:
    targets = (link.partition("#")[0] for link in links_in(page) if "://" not in link)
    return {(page.parent / target).resolve() for target in targets if target}


def test_every_page_is_reachable_from_the_index() -> None:
    docs = {page.resolve() for page in (ROOT / "docs").rglob("*.md")}
    reached: set[Path] = set()
    pending = {(ROOT / "docs" / "index.md").resolve()}
    while pending:
        page = pending.pop()
        reached.add(page)
        pending |= (links_of(page) & docs) - reached
    assert docs - reached == set()


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    docs = ROOT / "docs"
    pages = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    assert navigation == {
        page for page in pages if not page.startswith(("runbooks/", "pictures/"))
    }  # linked from elsewhere
