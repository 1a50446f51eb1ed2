"""URLs and patterns of URLs, on fsspec's file system in memory; `tests/cli/on_cloud` reads s3:// and gs://."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flowrt.cli.exit_codes import CommandError
from flowrt.cli.io.formats import format_of
from flowrt.cli.io.readers import open_input
from flowrt.cli.io.remote import expand_url, open_url, url_blocks

FOLDER = "memory://flowrt-test-remote"


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    """Keep objects of other tests out."""
    memory = MemoryFileSystem()
    for name in ("part-2.jsonl", "part-10.jsonl", "part-1.jsonl", "a[1].jsonl", "a1.jsonl"):
        memory.pipe(f"{FOLDER}/{name}", name.encode())
    yield
    memory.rm(FOLDER, recursive=True)


def names(pattern: str) -> list[str]:
    return [url.rpartition("/")[2] for url in expand_url(f"{FOLDER}/{pattern}")]


def test_pattern_of_a_url_is_expanded_in_alphabetical_order() -> None:
    assert names("part-*.jsonl") == ["part-1.jsonl", "part-10.jsonl", "part-2.jsonl"]
    assert names("part-[2].jsonl") == ["part-2.jsonl"]
    with open_url(expand_url(f"{FOLDER}/part-?.jsonl")[1]) as file:
        assert file.read() == b"part-2.jsonl"


def test_url_of_a_file_with_a_name_like_a_pattern_is_that_file() -> None:
    assert names("a[1].jsonl") == ["a[1].jsonl"]
    assert names("a?.jsonl") == ["a1.jsonl"]


def test_query_of_an_http_url_is_no_pattern() -> None:
    assert expand_url("https://example.com/in.jsonl?page=[1]*") == ["https://example.com/in.jsonl?page=[1]*"]


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("https://example.com/in.csv?name=a.b#c", "csv"),
        ("https://[::1/in.csv", "csv"),
        ("s3://bucket/in.csv.gz?versionId=1.2", "csv"),
        ("s3://bucket/run#1.parquet", "parquet"),
        ("s3://bucket/[x.jsonl", "jsonl"),
    ],
)
def test_format_of_a_url_is_that_of_its_path(url: str, form: str) -> None:
    assert format_of(url, streamed=False) == form


def test_pattern_of_a_url_without_a_match_ends_the_command() -> None:
    with pytest.raises(CommandError, match=r"nosuch-\*.jsonl' matches no file") as caught:
        open_input([f"{FOLDER}/nosuch-*.jsonl"])
    assert caught.value.exit_code == 2


def test_missing_file_of_a_url_ends_the_command() -> None:
    with pytest.raises(CommandError, match=r"nosuch.jsonl' does not exist") as caught:
        open_input([f"{FOLDER}/nosuch.jsonl"])
    assert caught.value.exit_code == 2


def test_error_in_mid_read_names_the_url_and_restores_log_levels() -> None:
    class Broken:
        def read(self, _: int) -> bytes:
            logging.getLogger("gcsfs").error("the same with a traceback")
            raise OSError("connection reset")

    logger = logging.getLogger("gcsfs")
    before = logger.level
    with pytest.raises(
        CommandError, match=r"^gs://b/in.jsonl cannot be read: OSError: connection reset \(cred"
    ) as caught:
        next(url_blocks(Broken(), "gs://b/in.jsonl", []))  # type: ignore[arg-type]
    assert caught.value.exit_code == 65
    assert logger.level == before
