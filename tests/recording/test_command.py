"""Command line for recordings: readable, and without secrets."""

from __future__ import annotations

import pytest

from flowrt.recording.command import command_line


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/usr/bin/flowrt", "run", "crawl:fetch", "my urls.jsonl"], "flowrt run crawl:fetch 'my urls.jsonl'"),
        (["flowrt", "--metrics-token", "horse", "run"], "flowrt --metrics-token '[redacted]' run"),
        (["flowrt", "--metrics-token=horse", "run"], "flowrt '--metrics-token=[redacted]' run"),
        (["job.py", "--api-key", "a=b", "x"], "job.py --api-key '[redacted]' x"),
        (["/site-packages/flowrt/__main__.py", "run", "crawl:fetch"], "python -m flowrt run crawl:fetch"),
        (["job.py", "password=horse"], "job.py 'password=[redacted]'"),
        (["job.py", "https://me:pw@host/x?key=1"], "job.py 'https://[redacted]@host/x?[redacted]'"),
        ([""], ""),
        ([], ""),
    ],
)
def test_command_line_is_shown_without_secrets(argv: list[str], shown: str) -> None:
    assert command_line(argv) == shown
