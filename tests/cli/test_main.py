"""Console entry point: lists its commands, imports them on use, reports errors in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from flowrt import MissingExtraError, __version__
from flowrt.cli.main import main

ROOT = Path(__file__).parents[2]


def test_version_option_prints_the_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"flowrt {__version__}\n"


def test_help_lists_commands_and_examples() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert "run" in text
    assert "demo" in text
    assert "flowrt run enrich:node airports.jsonl" in text


def test_command_help_has_examples_and_exit_codes() -> None:
    text = CliRunner().invoke(main, ["run", "--help"]).output
    assert "-o - | jq" in text
    assert "65 unreadable input" in text


@pytest.mark.parametrize("words", [(), ("journal",), ("dashboards",)], ids=" ".join)
def test_list_of_commands_cuts_no_sentence_short(words: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, [*words, "--help"]).output
    _, _, listed = text.partition("Commands:\n")
    commands, _, _ = listed.partition("\n\n")
    assert commands
    assert "..." not in commands


def test_help_imports_no_command_and_no_user_code(folder: Path, command: Any) -> None:
    words, environment = command
    code = (
        "import sys\n"
        "from flowrt.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "left = {'flowrt.cli.commands.run', 'flowrt.cli.commands.run_job', 'flowrt.cli.commands.demo'}\n"
        "left |= {'flowrt.runtime', 'nodes', 'pyarrow'}\n"
        "print(sorted(left & set(sys.modules)) or 'none')\n"
    )
    done = subprocess.run([words[0], "-P", "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "none"


def test_command_is_imported_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("flowrt.cli.commands.demo")

    @click.command()
    @click.option("--count", type=int)
    def demo(count: int) -> None:
        click.echo(f"demo {count}")

    module.demo = demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flowrt.cli.commands.demo", module)
    assert CliRunner().invoke(main, ["demo", "--count", "3"]).output == "demo 3\n"


def test_unknown_command_is_bad_usage() -> None:
    result = CliRunner().invoke(main, ["nosuch"])
    assert result.exit_code == 2
    assert "nosuch" in result.output


@pytest.mark.parametrize(
    ("raised", "code", "expected"),
    [(KeyboardInterrupt(), 130, ""), (MissingExtraError("a demo", "aiohttp", "demo"), 2, "flowrt[demo]")],
)
def test_interrupt_exits_130_and_a_missing_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, expected: str
) -> None:
    module = types.ModuleType("flowrt.cli.commands.demo")

    @click.command()
    def demo() -> None:
        raise raised

    module.demo = demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flowrt.cli.commands.demo", module)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == code
    assert expected in result.output
    assert "Traceback" not in result.output


def test_interrupt_during_start_up_prints_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow_node.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(3600)\n")
    (tmp_path / "in.jsonl").write_text("1\n")
    command = [sys.executable, "-m", "flowrt", "run", "slow_node:f", "in.jsonl", "-o", "out.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 130
