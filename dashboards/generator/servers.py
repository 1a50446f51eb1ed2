"""Prometheus and Alertmanager as Debian brings them, with the generated rules, on loopback ports until stopped."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import yaml

from dashboards.generator.files import rule_files
from dashboards.generator.provisioning import PROVISIONING
from dashboards.generator.windows import REAL, Time

__all__ = ["Api", "Servers", "free_port"]

_UP_S: Final = 30.0
_DOWN_S: Final = 10.0
_ANSWER_S: Final = 20.0


def free_port() -> int:
    """A port on 127.0.0.1 that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Api:
    """What a Prometheus answers.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer.

        Args:
            path: Below `/api/v1/`.
            parameters: Of the request.

        Raises:
            ValueError: It refused; the message is its own.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_ANSWER_S) as response:  # noqa: S310  # a loopback address
                return json.load(response)["data"]
        except urllib.error.HTTPError as exc:
            raise ValueError(f"{parameters}: {exc.read().decode(errors='replace')}") from exc

    def series(self, expr: str) -> list[dict[str, Any]]:
        """What a query gives now.

        Args:
            expr: In PromQL.
        """
        found: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return found

    def ranged(self, expr: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """What a query gives over time.

        Args:
            expr: In PromQL.
            start_s: In seconds since 1970.
            end_s: In seconds since 1970.
            step_s: In seconds.
        """
        times = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:g}"}
        found: list[dict[str, Any]] = self.get("query_range", query=expr, **times)["result"]
        return found

    def exemplars(self, expr: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """The exemplars of the series that a query reads.

        Args:
            expr: In PromQL.
            start_s: In seconds since 1970.
            end_s: In seconds since 1970.
        """
        found: list[dict[str, Any]] = self.get(
            "query_exemplars", query=expr, start=f"{start_s:.3f}", end=f"{end_s:.3f}"
        )
        return found


class Servers:
    """Both, to be used as `with Servers(...):`.

    Args:
        folder: For their settings, data and logs.
        targets: What to scrape, as `host:port`.
        scrape_s: How often, in seconds.
        time: How fast time goes for the rules.
        prometheus_port: 0 for a free one.
        alertmanager_port: 0 for a free one.

    Attributes:
        prometheus: Its API, once they are up.
        alertmanager_url: Its address.
    """

    def __init__(
        self,
        folder: Path,
        targets: list[str],
        *,
        scrape_s: float,
        time: Time = REAL,
        prometheus_port: int = 0,
        alertmanager_port: int = 0,
    ) -> None:
        self._folder = folder
        self._targets = targets
        self._scrape_s = scrape_s
        self._time = time
        self._ports = (prometheus_port or free_port(), alertmanager_port or free_port())
        self.prometheus = Api(f"http://127.0.0.1:{self._ports[0]}")
        self.alertmanager_url = f"http://127.0.0.1:{self._ports[1]}"
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Self:
        """As `start`."""
        self.start()
        return self

    def start(self) -> None:
        """Start them, and wait until they answer.

        Raises:
            FileNotFoundError: One is not installed.
            RuntimeError: One ended, or does not answer in time.
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
            self._check()  # who answers may be somebody else
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them."""
        self.stop()

    def alerts(self) -> list[dict[str, Any]]:
        """What fires at Alertmanager now."""
        with urllib.request.urlopen(  # noqa: S310  # a loopback address
            f"{self.alertmanager_url}/api/v2/alerts", timeout=_ANSWER_S
        ) as response:
            found: list[dict[str, Any]] = json.load(response)
        return found

    def stop(self) -> None:
        """Stop them; later calls do nothing."""
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
        (self._folder / "alertmanager.yml").write_text(PROVISIONING["alertmanager/alertmanager.yml"])
        for name, text in rule_files(self._time).items():
            (self._folder / name).write_text(text)

    def _start(self, name: str, *arguments: str) -> None:
        command = shutil.which(name) or shutil.which(name, path="/usr/bin")
        if command is None:
            raise FileNotFoundError(f"{name} is not installed: tools/install-prometheus does it on Debian")
        log = (self._folder / f"{name}.log").open("wb")
        # in a session of their own: Ctrl-C is for us, who then stop them
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
        """Raise where one has ended."""
        for process, log in self._running:
            if process.poll() is not None:
                said = Path(str(log.name)).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{said}")
