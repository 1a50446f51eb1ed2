"""Local servers of S3 and of Google Cloud Storage for the tests of this folder; `make test-cloud` runs them."""

from __future__ import annotations

import functools
import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, environment

BUCKET = "bucket"
SETTINGS = ("AWS_", "BOTO", "CLOUDSDK_", "FSSPEC_", "GCSFS_", "GOOGLE_", "STORAGE_EMULATOR_HOST")


if "FLOWRT_CLOUD" not in os.environ:  # the packages of both clouds are 200 MB
    collect_ignore_glob = ["test_*.py"]


@dataclass(frozen=True)
class Cloud:
    """An object store that the command reads.

    Attributes:
        scheme: Scheme of its URLs.
        settings: Environment variables with which the command finds it.
        put: Stores an object under a name in the bucket.
        unreachable: The same variables for a port where nothing listens.
    """

    scheme: str
    settings: dict[str, str]
    put: Callable[[str, bytes], None]
    unreachable: dict[str, str] = field(default_factory=dict)

    def url(self, name: str) -> str:
        """Return the URL of an object or a pattern."""
        return f"{self.scheme}://{BUCKET}/{name}"


def _closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="session")
def s3() -> Iterator[Cloud]:
    """moto's S3 with one bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
    }
    client = boto3.client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket=BUCKET)
    nowhere = settings | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{_closed_port()}"}

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=name, Body=data, ACL="public-read")

    yield Cloud("s3", settings, put, nowhere)
    client.close()
    server.stop()


@pytest.fixture(scope="session")
def gs() -> Iterator[Cloud]:
    """An emulator of Google Cloud Storage with one bucket."""
    import requests
    from gcp_storage_emulator.server import create_server

    port = _closed_port()  # the emulator does not say which one it would choose
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    base = f"http://127.0.0.1:{port}"

    def put(name: str, data: bytes) -> None:
        url = f"{base}/upload/storage/v1/b/{BUCKET}/o"
        parameters = {"uploadType": "media", "name": name}
        headers = {"Content-Type": "application/octet-stream"}
        requests.post(url, params=parameters, data=data, headers=headers, timeout=30).raise_for_status()

    nowhere = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{_closed_port()}"}
    yield Cloud("gs", {"STORAGE_EMULATOR_HOST": base}, put, nowhere)
    server.stop()


@pytest.fixture(params=["s3", "gs"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """One cloud after the other."""
    found: Cloud = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def on_cloud(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the real command in a process of its own, with these settings of clouds alone."""
    inherited = {name: value for name, value in environment().items() if not name.startswith(SETTINGS)}

    def call(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        env = inherited | {"HOME": str(folder), "AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"} | settings
        command = [*COMMAND, "run", *arguments]
        return subprocess.run(command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=240)

    return call


@pytest.fixture
def checked_s3(s3: Cloud) -> Iterator[Cloud]:
    """The same S3, which for now checks credentials, and knows none."""
    import requests

    def allow(requests_unchecked: str) -> None:
        url = f"{s3.settings['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        requests.post(url, data=requests_unchecked, timeout=30).raise_for_status()

    allow("0")
    yield s3
    allow("inf")


class _Refusing(http.server.BaseHTTPRequestHandler):
    """Refuses each request in the form of Google Cloud Storage, as the emulator checks no credentials."""

    def __init__(self, *arguments: object, status: int) -> None:
        self._status = status
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        body = b'{"error": {"code": %d, "message": "no access to this object"}}' % self._status
        self.send_response(self._status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(params=[401, 403])
def refusing(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Settings of a Google Cloud Storage that refuses each request."""
    handler = functools.partial(_Refusing, status=request.param)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server.server_address[1]}"}
        server.shutdown()
