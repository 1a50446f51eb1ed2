"""The command on s3:// and gs://: each runs in a process of its own on a local server."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest

from tests.cli.on_cloud.conftest import Cloud

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def parquet(rows: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as pq

    file = BytesIO()
    pq.write_table(pa.table(rows), file)
    return file.getvalue()


def outputs(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """Return the outputs of a run that went well and had nothing to say."""
    assert (done.returncode, done.stderr) == (0, "")
    lines = sorted(map(json.loads, done.stdout.splitlines()), key=lambda line: line["index"])
    return [line["output"] for line in lines]


def complaint(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return the one line on stderr with which a run ended before its first item."""
    assert (done.returncode, done.stdout) == (exit_code, "")
    line, end, rest = done.stderr.partition("\n")
    assert (end, rest) == ("\n", "")
    return line


def echo(run: Run, settings: dict[str, str], *urls: str) -> subprocess.CompletedProcess[str]:
    return run(settings, "nodes.py:echo", *urls, "-o", "-", "--quiet")


@pytest.mark.parametrize(
    ("name", "data", "items"),
    [
        ("in.jsonl", b'{"a": "1"}\n{"a": "\xc3\xa4"}\n', [{"a": "1"}, {"a": "ä"}]),
        ("in.csv.gz", gzip.compress(b"a,b\n1,x\n2,y\n"), [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]),
        ("folder/in put#1.jsonl", b"1\n", [1]),
        ("in.parquet", parquet({"a": [1, 2], "b": ["x", None]}), [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
    ],
    ids=["jsonl", "csv.gz", "odd name", "parquet"],
)
def test_object_is_read(cloud: Cloud, on_cloud: Run, name: str, data: bytes, items: list[Any]) -> None:
    cloud.put(name, data)
    assert outputs(echo(on_cloud, cloud.settings, cloud.url(name))) == items


def test_object_larger_than_a_request_is_read_whole(cloud: Cloud, on_cloud: Run) -> None:
    """gcsfs asks for 5 MiB at a time, flowrt for 1 MiB: the parts must meet."""
    lines = [{"n": number, "text": chr(97 + number % 26) * 100_000} for number in range(80)]
    cloud.put("large.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    assert outputs(echo(on_cloud, cloud.settings, cloud.url("large.jsonl"))) == lines


def test_parquet_larger_than_a_request_is_read_from_its_end(cloud: Cloud, on_cloud: Run) -> None:
    rows = list(range(2_000))
    cloud.put("large.parquet", parquet({"n": rows, "text": [f"{n:05}" * 1_000 for n in rows]}))
    done = echo(on_cloud, cloud.settings, cloud.url("large.parquet"))
    assert [item["n"] for item in outputs(done)] == rows


def test_pattern_reads_each_object_in_alphabetical_order(cloud: Cloud, on_cloud: Run) -> None:
    for name in ("part-2", "part-10", "part-1", "other"):
        cloud.put(f"parts/{name}.jsonl", json.dumps(name).encode())
    done = echo(on_cloud, cloud.settings, cloud.url("parts/part-*.jsonl"), cloud.url("parts/other.jsonl"))
    assert outputs(done) == ["part-1", "part-10", "part-2", "other"]


def test_object_with_a_name_like_a_pattern_is_read(cloud: Cloud, on_cloud: Run) -> None:
    cloud.put("name[1].jsonl", b'"this one"\n')
    cloud.put("name1.jsonl", b'"the other one"\n')
    assert outputs(echo(on_cloud, cloud.settings, cloud.url("name[1].jsonl"))) == ["this one"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("bucket/nosuch.jsonl", "does not exist"),
        ("bucket/nosuch.parquet", "does not exist"),
        ("nosuchbucket/in.jsonl", "does not exist"),
        ("bucket/nosuch-*.jsonl", "matches no file"),
    ],
)
def test_missing_object_is_named(cloud: Cloud, on_cloud: Run, url: str, why: str) -> None:
    url = f"{cloud.scheme}://{url}"
    assert complaint(echo(on_cloud, cloud.settings, url), 2) == f"flowrt: input {url!r} {why}"


def test_second_of_two_objects_that_is_missing_ends_the_run_at_once(cloud: Cloud, on_cloud: Run) -> None:
    cloud.put("first.jsonl", b"1\n")
    done = echo(on_cloud, cloud.settings, cloud.url("first.jsonl"), cloud.url("nosuch.jsonl"))
    assert "nosuch.jsonl' does not exist" in complaint(done, 2)


def test_damaged_object_is_named(cloud: Cloud, on_cloud: Run) -> None:
    cloud.put("damaged.parquet", b"PAR1 and no footer")
    assert f"{cloud.url('damaged.parquet')} is not Parquet" in complaint(
        echo(on_cloud, cloud.settings, cloud.url("damaged.parquet")), 65
    )


def test_refused_connection_names_the_url_and_the_setting(cloud: Cloud, on_cloud: Run) -> None:
    """Both packages try for 10 to 30 seconds."""
    message = complaint(echo(on_cloud, cloud.unreachable, cloud.url("in.jsonl")), 65)
    setting = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[cloud.scheme]
    assert message.startswith(f"flowrt: {cloud.url('in.jsonl')} cannot be opened: ")
    assert "onnect" in message
    assert setting in message


@pytest.mark.parametrize(("name", "verb"), [("in.jsonl", "opened"), ("part-*.jsonl", "listed")])
def test_denied_s3_credentials_end_the_run(checked_s3: Cloud, on_cloud: Run, name: str, verb: str) -> None:
    """A bucket that may not be listed is not reported as a pattern without a match."""
    message = complaint(echo(on_cloud, checked_s3.settings, checked_s3.url(name)), 65)
    assert message.startswith(
        f"flowrt: s3://bucket/{name} cannot be {verb}: PermissionError: Forbidden (credentials: AWS_"
    )


def test_missing_s3_credentials_end_the_run_unless_it_is_anonymous(s3: Cloud, on_cloud: Run) -> None:
    s3.put("in.jsonl", b"1\n")
    settings = {"AWS_ENDPOINT_URL": s3.settings["AWS_ENDPOINT_URL"]}
    message = complaint(echo(on_cloud, settings, s3.url("in.jsonl")), 65)
    assert "NoCredentialsError: Unable to locate credentials (credentials: AWS_PROFILE, or AWS_ACCESS_KEY_ID" in message
    assert outputs(echo(on_cloud, settings | {"FSSPEC_S3_ANON": "true"}, s3.url("in.jsonl"))) == [1]


def test_s3_credentials_and_endpoint_of_a_profile_are_used(s3: Cloud, on_cloud: Run, folder: Any) -> None:
    s3.put("in.jsonl", b"1\n")
    (folder / "credentials").write_text("[it]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    (folder / "config").write_text(f"[profile it]\nendpoint_url = {s3.settings['AWS_ENDPOINT_URL']}\n")
    files = {"AWS_SHARED_CREDENTIALS_FILE": f"{folder}/credentials", "AWS_CONFIG_FILE": f"{folder}/config"}
    assert outputs(echo(on_cloud, files | {"AWS_PROFILE": "it"}, s3.url("in.jsonl"))) == [1]


@pytest.mark.parametrize(("name", "verb"), [("in.jsonl", "opened"), ("part-*.jsonl", "listed")])
def test_denied_google_credentials_end_the_run(refusing: dict[str, str], on_cloud: Run, name: str, verb: str) -> None:
    message = complaint(echo(on_cloud, refusing, f"gs://bucket/{name}"), 65)
    assert message.startswith(f"flowrt: gs://bucket/{name} cannot be {verb}: ")
    assert "no access to this object" in message
    assert "GOOGLE_APPLICATION_CREDENTIALS" in message
