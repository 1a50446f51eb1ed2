"""Debian's Prometheus and Alertmanager with the generated rules, on loopback ports."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import yaml

from dashboards.generator.files import rule_files
from dashboards.generator.provisioning import PROVISIONING
from dashboards.generator.windows import REAL, Time

__all__ = ["Api", "Servers", "free_port"]

_UP_S: Final = 60.0
_DOWN_S: Final = 10.0
_ANSWER_S: Final = 20.0
_PORTS: Final = 10_000
_ASSIGNED: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a free port on 127.0.0.1, to be bound by another process in a while.

    It lies below the ports that the system assigns itself, as another connection could have got one of these by then.

    Raises:
        OSError: No port is free.
    """
    below = _first_assigned_port()
    for _ in range(100):
        with socket.socket() as probe, suppress(OSError):  # taken
            probe.bind(("127.0.0.1", below - 1 - secrets.randbelow(_PORTS)))
            port: int = probe.getsockname()[1]
            return port
    raise OSError(f"no port from {below - _PORTS} to {below - 1} is free")


def _first_assigned_port() -> int:
    try:
        return max(2 * _PORTS, int(_ASSIGNED.read_text().split()[0]))
    except OSError:  # no Linux, where the range begins at 32,768 or above
        return 32_768


class Api:
    """Client of Prometheus's HTTP API.

    Args:
        url: Address of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer.

        Args:
            path: Path below `/api/v1/`.
            parameters: Parameters of the request.

        Raises:
            ValueError: The server refused the request; the message is the server's.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_ANSWER_S) as response:  # noqa: S310  # a loopback address
                return json.load(response)["data"]
        except urllib.error.HTTPError as exc:
            raise ValueError(f"{parameters}: {exc.read().decode(errors='replace')}") from exc

    def series(self, expr: str) -> list[dict[str, Any]]:
        """Return the present value of a query.

        Args:
            expr: PromQL.
        """
        found: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return found

    def ranged(self, expr: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """Return the values of a query over time.

        Args:
            expr: PromQL.
            start_s: Start in seconds since 1970.
            end_s: End in seconds since 1970.
            step_s: Time between two values in seconds.
        """
        times = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:g}"}
        found: list[dict[str, Any]] = self.get("query_range", query=expr, **times)["result"]
        return found

    def exemplars(self, expr: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """Return the exemplars of the series that a query reads.

        Args:
            expr: PromQL.
            start_s: Start in seconds since 1970.
            end_s: End in seconds since 1970.
        """
        found: list[dict[str, Any]] = self.get(
            "query_exemplars", query=expr, start=f"{start_s:.3f}", end=f"{end_s:.3f}"
        )
        return found


class Servers:
    """Prometheus and Alertmanager, as a context manager.

    Args:
        folder: Folder for settings, data and logs.
        targets: Targets to scrape, as `host:port`.
        scrape_s: Scrape interval in seconds.
        time: Speed of time for the rules.
        objectives: Rules file with the objectives; None for the generated one.
        webhook: URL that Alertmanager notifies at once of each alert that fires or resolves; None for no notifications.
        prometheus_port: Port of Prometheus, 0 for a free one.
        alertmanager_port: Port of Alertmanager, 0 for a free one.

    Attributes:
        prometheus: API of Prometheus.
        alertmanager_url: Address of Alertmanager.
    """

    def __init__(
        self,
        folder: Path,
        targets: list[str],
        *,
        scrape_s: float,
        time: Time = REAL,
        objectives: str | None = None,
        webhook: str | None = None,
        prometheus_port: int = 0,
        alertmanager_port: int = 0,
    ) -> None:
        self._folder = folder
        self._targets = targets
        self._scrape_s = scrape_s
        self._time = time
        self._objectives = objectives
        self._webhook = webhook
        self._ports = (prometheus_port or free_port(), alertmanager_port or free_port())
        self.prometheus = Api(f"http://127.0.0.1:{self._ports[0]}")
        self.alertmanager_url = f"http://127.0.0.1:{self._ports[1]}"
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Self:
        """Start the servers."""
        self.start()
        return self

    def start(self) -> None:
        """Start the servers and wait until they answer.

        Raises:
            FileNotFoundError: A server is not installed.
            RuntimeError: A server ended, or does not answer in time.
        """
        self._write_settings()
        folder, (prometheus, alertmanager) = self._folder, self._ports
        try:
            self._start(
                "prometheus-alertmanager",
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            )
            self._start(
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{prometheus}",
                "--enable-feature=exemplar-storage",
            )
            for url in (self.alertmanager_url, self.prometheus.url):
                self._wait(f"{url}/-/ready")
            self._check()  # the answer may come from another process on the same port
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the servers."""
        self.stop()

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that Alertmanager holds."""
        with urllib.request.urlopen(  # noqa: S310  # a loopback address
            f"{self.alertmanager_url}/api/v2/alerts", timeout=_ANSWER_S
        ) as response:
            found: list[dict[str, Any]] = json.load(response)
        return found

    def stop(self) -> None:
        """Stop the servers; further calls do nothing."""
        for process, _ in self._running:
            process.terminate()
        for process, log in self._running:
            try:
                process.wait(_DOWN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()
        self._running.clear()

    def _write_settings(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = yaml.safe_load(PROVISIONING["prometheus/prometheus.yml"])
        scrape = f"{round(self._scrape_s * 1000)}ms"
        settings["global"].update(scrape_interval=scrape, scrape_timeout=scrape)
        settings["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{self._ports[1]}"]
        settings["scrape_configs"][0]["static_configs"][0]["targets"] = self._targets
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        (self._folder / "alertmanager.yml").write_text(self._alertmanager())
        rules = rule_files(self._time)
        if self._objectives is not None:
            rules["flowrt.objectives.yaml"] = self._objectives
        for name, text in rules.items():
            (self._folder / name).write_text(text)

    def _alertmanager(self) -> str:
        text = PROVISIONING["alertmanager/alertmanager.yml"]
        if self._webhook is None:
            return text
        settings = yaml.safe_load(text)
        settings["route"].update(group_wait="0s", group_interval="1s")
        settings["receivers"][0]["webhook_configs"] = [{"url": self._webhook, "send_resolved": True}]
        changed: str = yaml.safe_dump(settings)
        return changed

    def _start(self, name: str, *arguments: str) -> None:
        command = shutil.which(name) or shutil.which(name, path="/usr/bin")
        if command is None:
            raise FileNotFoundError(f"{name} is not installed: run tools/install-prometheus on Debian")
        log = (self._folder / f"{name}.log").open("wb")
        # In a session of its own, since Ctrl-C is for the parent, which then stops the servers.
        process = subprocess.Popen(  # noqa: S603
            [command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        self._running.append((process, log))

    def _wait(self, url: str) -> None:
        deadline = time.monotonic() + _UP_S
        while True:
            try:
                with urllib.request.urlopen(url, timeout=1.0):  # noqa: S310  # a loopback address
                    return
            except OSError as exc:
                self._check()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{url} does not answer after {_UP_S:g} s") from exc
                time.sleep(0.05)

    def _check(self) -> None:
        """Raise if a server has ended."""
        for process, log in self._running:
            if process.poll() is not None:
                said = Path(str(log.name)).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{said}")
