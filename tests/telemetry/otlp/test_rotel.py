"""Export over both protocols to a real collector, which forwards to a sink with the official parser."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import rotel

from dashboards.generator.servers import free_port
from flowrt.telemetry.otlp import Backoff, SpanPipeline, make_transport, read_settings
from tests.telemetry.otlp.harness import (
    HANG_GUARD_S,
    Collector,
    assert_balanced,
    encode,
    eventually,
    numbered,
    spans_named,
)

AGENT = Path(rotel.__file__).parent / "rotel-agent"
Start = Callable[..., Collector]


class Ports:
    """Ports of a collector."""

    def __init__(self) -> None:
        self.of = {"http/protobuf": free_port(), "grpc": free_port()}

    def endpoint(self, protocol: str) -> str:
        return f"http://127.0.0.1:{self.of[protocol]}"

    def are_open(self) -> bool:
        for port in self.of.values():
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)):
                    return False
        return True


@contextmanager
def running(ports: Ports, sink: Collector) -> Iterator[None]:
    """Runs the collector in a process of its own; at its end it forwards what it holds."""
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    agent = subprocess.Popen(
        [
            AGENT,
            "start",
            f"--otlp-http-endpoint=127.0.0.1:{ports.of['http/protobuf']}",
            f"--otlp-grpc-endpoint=127.0.0.1:{ports.of['grpc']}",
            "--exporter=otlp",
            "--otlp-exporter-protocol=http",
            f"--otlp-exporter-endpoint={sink.endpoint}",
            "--batch-timeout=50ms",
        ],
        env={**os.environ, "LD_LIBRARY_PATH": libraries},  # the collector is linked to the interpreter's library
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: ports.are_open() or agent.poll() is not None)
        assert agent.poll() is None, f"the collector ended with {agent.returncode}"
        yield
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(HANG_GUARD_S)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_all_spans_arrive(
    collector: Start, protocol: Literal["http/protobuf", "grpc"], compression: Literal["none", "gzip"]
) -> None:
    sink, ports = collector(), Ports()
    with running(ports, sink):
        settings = read_settings(ports.endpoint(protocol), protocol=protocol, compression=compression)
        pipeline = SpanPipeline(make_transport(settings), encode)
        for span in spans_named(numbered(5_000)):
            pipeline.put(span)
        pipeline.close(HANG_GUARD_S)
    assert sorted(sink.taken) == sorted(numbered(5_000))
    assert (pipeline.ended, pipeline.exported) == (5_000, 5_000)
    assert_balanced(pipeline)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_restart_loses_nothing(collector: Start, protocol: Literal["http/protobuf", "grpc"]) -> None:
    sink, ports = collector(), Ports()
    transport = make_transport(read_settings(ports.endpoint(protocol), protocol=protocol))
    pipeline = SpanPipeline(transport, encode, delay_s=0.02, backoff=Backoff(first_s=0.05, most_s=0.2))
    spans = spans_named(numbered(2_000))
    with running(ports, sink):
        for span in spans[:1_000]:
            pipeline.put(span)
            time.sleep(0.0002)
        assert pipeline.force_flush()
    for span in spans[1_000:1_500]:
        pipeline.put(span)
    assert not pipeline.force_flush(200)
    with running(ports, sink):
        for span in spans[1_500:]:
            pipeline.put(span)
        pipeline.close(HANG_GUARD_S)
    assert set(sink.taken) == set(numbered(2_000))
    assert (pipeline.ended, pipeline.exported) == (2_000, 2_000)
    assert_balanced(pipeline)
