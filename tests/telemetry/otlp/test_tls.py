"""Export over TLS, with certificates made for the test."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from flowrt.telemetry.otlp import Backoff, SpanPipeline, make_transport, read_settings
from tests.telemetry.otlp.harness import Collector, assert_balanced, encode, eventually, names_in, spans_named

QUICK = Backoff(first_s=0.01, most_s=0.05, give_up_s=0.2)
Files = dict[str, str]
Start = Callable[..., Collector]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """PEM files of an authority, and certificates and keys of a server and a client."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(folder / "authority")
    for name, made in (("server", server), ("client", client)):
        made.private_key_pem.write_to_path(folder / f"{name}_key")
        for place, part in enumerate(made.cert_chain_pems):
            part.write_to_path(folder / name, append=place > 0)
    return {path.name: str(path) for path in folder.iterdir()}


def context(files: Files, *, client: bool = False) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(files["server"], files["server_key"])
    if client:
        made.load_verify_locations(files["authority"])
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def exported(endpoint: str, **settings: Any) -> SpanPipeline:
    """Exports one span, and returns the pipeline once the span is exported or dropped."""
    transport = make_transport(read_settings(endpoint, **settings))
    pipeline = SpanPipeline(transport, encode, delay_s=0.01, backoff=QUICK)
    pipeline.put(spans_named(["s"])[0])
    eventually(lambda: not pipeline.waiting)
    pipeline.close(1.0)
    assert_balanced(pipeline)
    return pipeline


def test_configured_certificate_is_trusted(collector: Start, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    there = collector(tls=context(files))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", files["authority"])
    assert exported(there.endpoint).exported == 1
    assert there.taken == ["s"]


def test_unknown_certificate_is_rejected(collector: Start, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    there = collector(tls=context(files))
    assert exported(there.endpoint).dropped["export_error"] == 1
    assert not there.requests
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


def test_client_certificate_is_sent(collector: Start, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    there = collector(tls=context(files, client=True))
    assert exported(there.endpoint, certificate=files["authority"]).dropped["export_error"] == 1
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", files["client"])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", files["client_key"])
    assert exported(there.endpoint, certificate=files["authority"]).exported == 1


def test_invalid_certificate_file_is_named(tmp_path: Path, files: Files) -> None:
    path = tmp_path / "none.pem"
    path.write_text("no certificate")
    with pytest.raises(ValueError, match=r"certificate '.*none\.pem' cannot be read"):
        make_transport(read_settings("https://c", certificate=str(path)))
    with pytest.raises(ValueError, match=r"client certificate and key, '.*none\.pem' and .*, cannot be used"):
        make_transport(read_settings("https://c", client_certificate=str(path), client_key=files["client_key"]))


@pytest.fixture
def grpc_endpoint(files: Files) -> Iterator[tuple[str, list[str]]]:
    """gRPC server that requires a client certificate."""
    taken: list[str] = []

    def export(request: bytes, _: grpc.ServicerContext) -> bytes:
        taken.extend(names_in(request))
        return b""

    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    handler = grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(export)})
    server.add_generic_rpc_handlers((handler,))
    key, chain, root = (Path(files[name]).read_bytes() for name in ("server_key", "server", "authority"))
    credentials = grpc.ssl_server_credentials([(key, chain)], root, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}", taken
    server.stop(0).wait(30)
    pool.shutdown()


@pytest.mark.parametrize("scheme", ["https://", ""])
def test_grpc_uses_the_configured_certificates(grpc_endpoint: tuple[str, list[str]], files: Files, scheme: str) -> None:
    address, taken = grpc_endpoint
    its = {"protocol": "grpc", "certificate": files["authority"]}
    assert exported(f"{scheme}{address}", **its).dropped["export_error"] == 1
    its |= {"client_certificate": files["client"], "client_key": files["client_key"]}
    assert exported(f"{scheme}{address}", **its).exported == 1
    assert taken == ["s"]
