"""The README and the project URLs in a built wheel, with and without a repository's URL."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("README.md", "LICENSE", "pyproject.toml", "flowrt/_version.py", "tools/package_metadata.py")
URL = "https://example.com/owner/flowrt"
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def metadata(folder: Path, repository: str) -> Message:
    """METADATA of a wheel that is built with a setting of `repository`."""
    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, folder / part)
    shutil.copytree(ROOT / "dashboards", folder / "dashboards", ignore=shutil.ignore_patterns("generator"))
    project = (folder / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(
        re.sub(r'^repository = ".*"', f'repository = "{repository}"', project, flags=re.MULTILINE)
    )
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"], cwd=folder, check=True)
    (wheel,) = (folder / "dist").iterdir()
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(packed.read(name))


def text_of(message: Message) -> str:
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


def test_links_lead_to_the_repository_where_it_is_known(tmp_path: Path) -> None:
    built = metadata(tmp_path, f"{URL}/")
    links = LINK.findall(text_of(built))
    assert len(links) == len(LINK.findall((ROOT / "README.md").read_text())) > 20
    for link in links:
        kind, _, path = link.removeprefix(f"{URL}/").partition("/main/")
        assert kind == ("raw" if path.endswith((".svg", ".png")) else "blob"), link
        assert (ROOT / path.partition("#")[0]).is_file(), link
    urls = dict(url.split(", ") for url in built.get_all("Project-URL") or ())
    assert urls["Repository"] == URL
    assert urls["Changelog"] == f"{URL}/blob/main/CHANGELOG.md"


def test_no_link_leads_nowhere_where_the_repository_is_unknown(tmp_path: Path) -> None:
    built = metadata(tmp_path, "")
    text, readme = text_of(built), (ROOT / "README.md").read_text()
    assert LINK.findall(text) == []
    assert "![" not in text
    assert "Next: the tutorial, ten minutes" in text
    assert FENCED.findall(text) == FENCED.findall(readme)
    assert built.get_all("Project-URL") is None
    assert built.get_all("Dynamic") is None
    assert built["Description-Content-Type"] == "text/markdown"


@pytest.mark.parametrize("code", ["`FilterNode[int](name)`", "```python\nMapNode[str](name)\n```"])
def test_code_is_no_link(code: str) -> None:
    from tools.package_metadata import readme_for_index

    assert readme_for_index(code, "") == code
    assert readme_for_index(f"{code} [`x`](docs/x.md)", URL) == f"{code} [`x`]({URL}/blob/main/docs/x.md)"
