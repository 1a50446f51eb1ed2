"""`python -m dashboards.generator.stack`: a running demo with Prometheus, the rules and Alertmanager, without Docker.

Everything listens on 127.0.0.1. Ctrl-C stops everything and leaves no process or file behind. Debian has no package of
Grafana: `dashboards/compose.yaml` adds it.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final
from urllib.parse import urlsplit

from dashboards.generator.servers import Servers

__all__ = ["main"]

_PROMETHEUS: Final = 9090
_ALERTMANAGER: Final = 9093
_SCRAPE_S: Final = 2.0
_DRAIN_S: Final = 20.0


def main(arguments: Sequence[str]) -> int:
    """Run the stack until Ctrl-C.

    Args:
        arguments: Arguments of the command.

    Returns:
        Exit code: 0 stopped by Ctrl-C or SIGTERM, 1 a part did not start.
    """
    parser = argparse.ArgumentParser(prog="python -m dashboards.generator.stack", description=main.__doc__)
    parser.add_argument("--items", type=int, default=6000, help="number of airports that the demo enriches")
    parser.add_argument("--concurrency", type=int, default=5, help="number of items at once")
    parser.add_argument("--metrics-port", type=int, default=9464, help="metrics port of the demo; any if in use")
    chosen = parser.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="flowrt-stack-") as folder:
        demo = _start_demo(Path(folder), chosen)
        code = 0
        try:
            _serve(Path(folder), demo)
        except KeyboardInterrupt:
            _say("\nstopping ...")
        except (RuntimeError, FileNotFoundError) as exc:
            _say(f"stack: {exc}")
            code = 1
        finally:
            _end(demo)
            signal.signal(signal.SIGTERM, before)
    return code


def _start_demo(folder: Path, chosen: argparse.Namespace) -> subprocess.Popen[str]:
    numbers = ["--items", str(chosen.items), "--concurrency", str(chosen.concurrency)]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", "flowrt", "demo", "--serve", *numbers, "--metrics-port", str(chosen.metrics_port)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the parent, which then stops the demo
    )


def _serve(folder: Path, demo: subprocess.Popen[str]) -> None:
    """Watch the demo until an interrupt.

    Raises:
        RuntimeError: The demo did not start, or a part ended.
    """
    target = urlsplit(_metrics_of(demo)).netloc
    with Servers(
        folder / "servers",
        [target],
        scrape_s=_SCRAPE_S,
        prometheus_port=_free(_PROMETHEUS),
        alertmanager_port=_free(_ALERTMANAGER),
    ) as servers:
        url = servers.prometheus.url
        _say(f"live page     http://{target}/")
        _say(f"metrics       http://{target}/metrics")
        _say(f"prometheus    {url}/graph?g0.expr=sum%20by%20(status)%20(rate(flowrt_items_total%5B1m%5D))&g0.tab=0")
        _say(f"rules         {url}/rules")
        _say(f"alerts        {url}/alerts")
        _say(f"alertmanager  {servers.alertmanager_url}")
        _say("Ctrl-C stops everything; dashboards/compose.yaml adds Grafana and a trace store")
        while demo.poll() is None:
            time.sleep(0.2)
        raise RuntimeError(f"the demo ended with {demo.returncode}")


def _metrics_of(demo: subprocess.Popen[str]) -> str:
    said = ""
    for line in demo.stderr or ():
        said += line
        if line.startswith("metrics "):
            return line.split()[1]
    raise RuntimeError(f"the demo did not start:\n{said}")


def _free(port: int) -> int:
    """Return the port, or 0 (any port) if it is in use."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _end(demo: subprocess.Popen[str]) -> None:
    """Drain the demo, and kill it if it does not end."""
    if demo.poll() is None:
        demo.send_signal(signal.SIGTERM)
    try:
        demo.communicate(timeout=_DRAIN_S)
    except subprocess.TimeoutExpired:
        demo.kill()
        demo.communicate()


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
