"""Export settings from arguments and the standard variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowrt.telemetry.otlp import ExportSettings, loggable, read_settings

PREFIX = "OTEL_EXPORTER_OTLP_"


def put(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value)


def test_default_is_a_local_collector_over_http() -> None:
    settings = read_settings()
    assert settings == ExportSettings(endpoint="http://localhost:4318/v1/traces")
    assert (settings.timeout_s, settings.compression, settings.protocol) == (10.0, "none", "http/protobuf")
    assert read_settings(protocol="grpc").endpoint == "http://localhost:4317"


@pytest.mark.parametrize(
    ("base", "endpoint"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/otlp", "https://c/otlp/v1/traces"),
        ("https://c/otlp//?key=1", "https://c/otlp/v1/traces?key=1"),
        ("http://c:4318/v1/traces", "http://c:4318/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_traces_path_is_appended_to_a_base_url(monkeypatch: pytest.MonkeyPatch, base: str, endpoint: str) -> None:
    assert read_settings(base).endpoint == endpoint
    put(monkeypatch, ENDPOINT=base)
    assert read_settings().endpoint == endpoint


def test_traces_endpoint_is_used_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, ENDPOINT="http://all:4318", TRACES_ENDPOINT="http://traces:1/mine/")
    assert read_settings().endpoint == "http://traces:1/mine/"
    assert read_settings("http://argument:2").endpoint == "http://argument:2/v1/traces"


def test_grpc_endpoint_gets_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, ENDPOINT="https://c:4317", PROTOCOL="grpc")
    settings = read_settings()
    assert (settings.protocol, settings.url.netloc, settings.url.scheme) == ("grpc", "c:4317", "https")


@pytest.mark.parametrize(
    ("insecure", "scheme"), [("true", "http"), ("TRUE", "http"), ("false", "https"), ("", "https")]
)
def test_grpc_endpoint_without_scheme_uses_tls_unless_insecure(
    monkeypatch: pytest.MonkeyPatch, insecure: str, scheme: str
) -> None:
    put(monkeypatch, ENDPOINT="c:4317", PROTOCOL="grpc", INSECURE=insecure)
    assert read_settings().url.scheme == scheme
    assert read_settings("http://c:4317").url.scheme == "http"
    assert read_settings("https://c:4317", insecure=True).url.scheme == "https"


def test_traces_variables_win_and_arguments_win_over_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("all", "traces", "argument")}
    for path in files.values():
        Path(path).touch()
    put(monkeypatch, TIMEOUT="3", COMPRESSION="gzip", CERTIFICATE=files["all"], CLIENT_CERTIFICATE=files["all"])
    put(monkeypatch, CLIENT_KEY=files["all"], HEADERS="from=all", PROTOCOL="http/protobuf")
    settings = read_settings()
    assert (settings.timeout_s, settings.compression, settings.certificate) == (3.0, "gzip", files["all"])
    assert (settings.client_certificate, settings.client_key) == (files["all"], files["all"])
    assert settings.headers == {"from": "all"}

    put(monkeypatch, TRACES_TIMEOUT="4", TRACES_COMPRESSION="none", TRACES_CERTIFICATE=files["traces"])
    put(monkeypatch, TRACES_CLIENT_CERTIFICATE=files["traces"], TRACES_CLIENT_KEY=files["traces"])
    put(monkeypatch, TRACES_HEADERS="from=traces", TRACES_PROTOCOL="grpc")
    settings = read_settings()
    assert (settings.timeout_s, settings.compression, settings.certificate) == (4.0, "none", files["traces"])
    assert (settings.client_certificate, settings.client_key) == (files["traces"], files["traces"])
    assert (settings.headers, settings.protocol) == ({"from": "traces"}, "grpc")

    path = files["argument"]
    settings = read_settings(
        "http://c",
        protocol="http/protobuf",
        headers={"From": "argument"},
        timeout_s=5.0,
        compression="gzip",
        certificate=path,
        client_certificate=path,
        client_key=path,
    )
    assert (settings.timeout_s, settings.compression, settings.protocol) == (5.0, "gzip", "http/protobuf")
    assert (settings.certificate, settings.client_certificate, settings.client_key) == (path, path, path)
    assert settings.headers == {"from": "argument"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), ("0.5", 0.5), ("999", 999.0), ("1000", 1.0), ("10000", 10.0)]
)
def test_timeout_from_1000_on_is_in_milliseconds(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    put(monkeypatch, TIMEOUT=text)
    assert read_settings().timeout_s == seconds


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_invalid_timeout_is_logged_and_ignored(
    monkeypatch: pytest.MonkeyPatch, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(monkeypatch, TIMEOUT=text)
    assert read_settings().timeout_s == 10.0
    assert "OTEL_EXPORTER_OTLP_TIMEOUT" in caplog.text


def test_unsupported_value_is_logged_and_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(monkeypatch, PROTOCOL="http/json", TRACES_COMPRESSION="zstd")
    settings = read_settings()
    assert (settings.protocol, settings.compression) == ("http/protobuf", "none")
    assert caplog.messages == [
        "OTEL_EXPORTER_OTLP_PROTOCOL=http/json is not supported: use http/protobuf or grpc; http/protobuf is used",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION=zstd is not supported: use none or gzip; none is used",
    ]


def test_headers_are_decoded_and_invalid_ones_logged_without_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(
        monkeypatch,
        HEADERS="Authorization=Basic%20a=b, x-a = 1 ,,nothing,bad name=canary,x-b=1%0d%0acanary,=canary,x-c=",
    )
    assert read_settings().headers == {"authorization": "Basic a=b", "x-a": "1", "x-c": ""}
    assert "canary" not in caplog.text
    assert [message.rpartition("sent, ")[2].partition(":")[0] for message in caplog.messages] == [
        "an entry without '='",
        "'bad name'",
        "'x-b'",
        "''",
    ]


def test_user_in_the_endpoint_becomes_a_hidden_header() -> None:
    settings = read_settings("https://me:p%40ss@c:4318/base?key=1")
    assert settings.headers == {"Authorization": "Basic bWU6cEBzcw=="}
    assert settings.endpoint == "https://c:4318/base/v1/traces?key=1"
    assert settings.where == "https://c:4318/base/v1/traces"
    assert "bWU6" not in repr(settings)
    named = read_settings("https://me:pass@c:4318", headers={"authorization": "Bearer x"})
    assert named.headers == {"authorization": "Bearer x"}


@pytest.mark.parametrize(
    "endpoint", ["", "localhost:4318", "ftp://c", "http://", "http://c:port", "http://[::1", "unix:/x", "//c", 4318]
)
def test_invalid_endpoint_is_rejected_with_an_example(endpoint: object) -> None:
    with pytest.raises(ValueError, match=r"URL"):
        read_settings(endpoint)  # type: ignore[arg-type]


def test_rejected_endpoint_shows_no_password() -> None:
    with pytest.raises(ValueError, match="not 'ftp://c/v1/traces'") as caught:
        read_settings("ftp://me:canary@c?key=canary")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://c:4318/base", "http://c:4318/base"),
        ("c:4317", "c:4317"),
        ("https://me:canary@c:4318/base?key=canary#canary", "https://c:4318/base"),
        ("https://me:can@ary@c", "https://c"),
        ("https://me:can/ary@c", "https://c"),
        ("https://me:can?ary@c", "https://..."),
        ("https://c?key=can@ary", "https://..."),
        ("me:canary@c", "c"),
    ],
)
def test_loggable_endpoint_hides_user_query_and_fragment(endpoint: str, shown: str) -> None:
    assert loggable(endpoint) == shown


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("protocol", "http/json", "protocol must be 'http/protobuf' or 'grpc', not 'http/json'"),
        ("compression", "zstd", "compression must be 'none' or 'gzip', not 'zstd'"),
        ("timeout_s", 0, "timeout_s must be a number of seconds above 0, not 0"),
        ("timeout_s", float("nan"), "timeout_s must be a number of seconds above 0, not nan"),
        ("headers", {"a b": "canary"}, "the header 'a b' cannot be sent"),
        ("headers", {"a": "canary\n"}, "the header 'a' cannot be sent"),
        ("certificate", "/no/such.pem", "certificate must name a PEM file; there is no file '/no/such.pem'"),
        ("client_key", __file__, "client_key needs client_certificate"),
    ],
)
def test_invalid_argument_is_rejected_by_name(setting: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_settings("http://c:4318", **{setting: value})  # type: ignore[arg-type]
    assert "canary" not in str(caught.value)
