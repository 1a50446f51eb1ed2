"""Checks of the package's layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import layout


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package, which is the one that is checked."""
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    folder = tmp_path / "flowrt"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    return folder


def write(package: Path, **modules: str) -> None:
    for name, text in modules.items():
        (package / f"{name}.py").write_text(text)


def test_this_package_is_within_its_bounds() -> None:
    assert layout.main() == 0


def test_import_circle_is_a_problem_even_for_type_hints(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        package,
        a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flowrt.b import B\n",
        b="from flowrt import a\n",
    )
    assert layout.main() == 1
    assert "import circle: flowrt.a -> flowrt.b -> flowrt.a" in capsys.readouterr().err


def test_import_in_a_function_closes_no_circle(package: Path) -> None:
    write(package, a="def f():\n    from flowrt.b import B\n", b="from flowrt import a\n")
    assert layout.main() == 0


@pytest.mark.parametrize(("modules", "code"), [(layout.MAX_CHAIN, 0), (layout.MAX_CHAIN + 1, 1)])
def test_chain_of_imports_is_bounded(
    modules: int, code: int, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(package, **{f"m{number}": f"import flowrt.m{number + 1}\n" for number in range(1, modules)})
    write(package, **{f"m{modules}": ""})
    assert layout.main() == code
    assert (f"import chain of {modules} modules, at most {layout.MAX_CHAIN}" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(("lines", "code"), [(layout.MAX_LINES, 0), (layout.MAX_LINES + 1, 1)])
def test_length_of_a_module_is_bounded(
    lines: int, code: int, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(package, long="pass\n" * lines)
    assert layout.main() == code
    assert (f"flowrt.long has {lines} lines" in capsys.readouterr().err) == bool(code)
