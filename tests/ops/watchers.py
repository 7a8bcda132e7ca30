"""A real Prometheus and a real Alertmanager with the configuration that Guard ships, in a hurry, and who they tell."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.support.ports import free_ports

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
HURRY = 10
"""Every duration in rules and configuration is divided by so much; Prometheus reads and evaluates every second."""

WAIT_S = 60.0
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = r"([0-9]+)(ms|[smhdw])"


def hurried(text: str, hurry: int = HURRY) -> str:
    """Rules or a configuration with all durations divided."""

    def divided(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * _UNITS_MS[found[3]] // hurry}ms"

    text = re.sub(rf"(\[|offset ){_DURATION}(?=\W)", divided, text)
    return re.sub(rf"(\b(?:for|keep_firing_for|group_wait|group_interval): ){_DURATION}\b", divided, text)


@dataclass
class Receiver:
    """What people would have been told: the webhook's messages, each alert with the time at which it came."""

    alerts: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def names(self) -> set[str]:
        """The alerts that fired."""
        return {alert["labels"]["alertname"] for _, alert in self.alerts if alert["status"] == "firing"}


@contextmanager
def receiving() -> Iterator[tuple[Receiver, int]]:
    """A webhook on a free port."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.alerts += [(time.time(), alert) for alert in body["alerts"]]
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver, server.server_port
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    port: int

    def ask(self, path: str) -> Any:
        """The data of an answer of its API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=60) as response:
            return json.load(response)["data"]

    def value(self, expression: str) -> float | None:
        """The value of an expression that has one; None while it has none."""
        found = self.ask(f"query?query={urllib.request.quote(expression)}")["result"]
        return float(found[0]["value"][1]) if found else None

    def alerts(self) -> dict[str, str]:
        """The state of each alert that is pending or firing."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self.ask("alerts")["alerts"]}


@contextmanager
def watching(
    folder: Path, guard_port: int, triton: str | None = None, *, overhead_limit_s: float, hurry: int = HURRY
) -> Iterator[tuple[Prometheus, Receiver]]:
    """Prometheus and Alertmanager, ready; `overhead_limit_s` is in place of the limit for a GPU.

    `triton` is where a Triton has its metrics, if there is one.
    """
    rules = hurried((FOLDER / "guard.rules.yml").read_text(), hurry)
    (folder / "guard.rules.yml").write_text(rules.replace("vector(0.025)", f"vector({overhead_limit_s})"))
    port, alerts_port = free_ports(2)
    with receiving() as (receiver, webhook_port), ExitStack() as stack:
        alerting = yaml.safe_load(hurried((FOLDER / "alertmanager.yml").read_text(), hurry))
        alerting["receivers"][0]["webhook_configs"][0]["url"] = f"http://127.0.0.1:{webhook_port}/"
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(alerting))
        scraping = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        scraping["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        scraping["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alerts_port}"]
        targets = [f"127.0.0.1:{guard_port}", *([] if triton is None else [triton])]
        scraping["scrape_configs"] = scraping["scrape_configs"][: len(targets)]
        for job, target in zip(scraping["scrape_configs"], targets, strict=True):
            job["static_configs"][0]["targets"] = [target]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(scraping))
        own = [f"--storage.path={folder / 'alerts'}", "--cluster.listen-address="]
        stack.enter_context(running("prometheus-alertmanager", folder / "alertmanager.yml", alerts_port, own))
        own = [f"--storage.tsdb.path={folder / 'series'}"]
        stack.enter_context(running("prometheus", folder / "prometheus.yml", port, own))
        yield Prometheus(port), receiver


def wait_for(holds: Callable[[], bool], *, within_s: float = WAIT_S) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: it does not in time.
    """
    ends_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > ends_s:
            raise TimeoutError("it did not come true in time")
        threading.Event().wait(0.1)


@contextmanager
def running(program: Path | str, config: Path, port: int, options: list[str]) -> Iterator[None]:
    """A watcher that listens on a port of this machine, once it is ready. Its log is beside its configuration.

    Raises:
        RuntimeError: it did not get ready.
    """
    log = config.with_suffix(".log")
    with log.open("wb") as output:
        words = [program, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}", *options]
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: _answers(port))
        yield
    except TimeoutError as exc:
        raise RuntimeError(f"{program}: {exc}; its log ends in:\n{log.read_text()[-2000:]}") from exc
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5) as response:
        return bool(response.status == 200)
    return False
