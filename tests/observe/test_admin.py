"""The admin port, over real HTTP."""

from __future__ import annotations

import gzip
import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry, Gauge, Metric
from structlog.testing import capture_logs

from guard.errors import ConfigError
from guard.observe.admin import PATHS, AdminServer


@dataclass
class State:
    """What the process says of itself."""

    live: bool = True
    reasons: list[str] = field(default_factory=list)


@dataclass
class Admin:
    """A running admin server, the registry that it shows, and the state that it reports."""

    port: int
    registry: CollectorRegistry
    state: State

    def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Status, body and headers of a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()


@pytest.fixture
def admin() -> Iterator[Admin]:
    """A running admin server."""
    registry, state = CollectorRegistry(), State()
    server = AdminServer(
        "127.0.0.1:0",
        registry=registry,
        live=lambda: state.live,
        ready=lambda: state.reasons,
        policy=lambda: "policy 1a2b",
    )
    yield Admin(server.start(), registry, state)
    server.stop()


def test_metrics_are_served(admin: Admin) -> None:
    """/metrics holds the registry's metrics as they are at the scrape, in Prometheus' text format."""
    gauge = Gauge("answer", "An answer.", registry=admin.registry)
    gauge.set(42)
    status, body, headers = admin.ask("/metrics")
    assert status == 200
    assert b"answer 42.0\n" in body
    assert headers["Content-Type"].startswith("text/plain; version=")


def test_metrics_are_compressed_on_request(admin: Admin) -> None:
    """A scraper that accepts gzip gets it."""
    Gauge("answer", "An answer.", registry=admin.registry)
    _, body, headers = admin.ask("/metrics", headers={"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert b"answer 0.0\n" in gzip.decompress(body)


def test_liveness_follows_the_process(admin: Admin) -> None:
    """/livez is 200 while the process is worth keeping, and 503 after."""
    assert admin.ask("/livez")[0] == 200
    admin.state.live = False
    assert admin.ask("/livez")[0] == 503


def test_readiness_says_why_not(admin: Admin) -> None:
    """/readyz is 503 with every reason on a line, and 200 when there is none. Liveness does not depend on it."""
    admin.state.reasons = ["the upstream is not ready", "digits: the profile is not verified"]
    status, body, _ = admin.ask("/readyz")
    assert (status, body.decode().splitlines()) == (503, admin.state.reasons)
    assert admin.ask("/livez")[0] == 200
    admin.state.reasons = []
    assert admin.ask("/readyz")[0] == 200


def test_the_policy_in_force(admin: Admin) -> None:
    """/policy says which policy is in force."""
    status, body, _ = admin.ask("/policy")
    assert (status, body) == (200, b"policy 1a2b\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/readyz/x", "/favicon.ico"])
def test_other_paths_are_told_what_there_is(admin: Admin, path: str) -> None:
    """Another path is 404, with a list of those that exist."""
    status, body, _ = admin.ask(path)
    assert status == 404
    assert all(known in body.decode() for known in PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(admin: Admin, path: str) -> None:
    """HEAD has GET's status and headers, and no body."""
    got, asked = admin.ask(path), admin.ask(path, "HEAD")
    assert asked[0] == got[0] == 200
    assert asked[1] == b""
    assert asked[2]["Content-Length"] == str(len(got[1]))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/livez"])
def test_other_methods_are_refused(admin: Admin, path: str, method: str) -> None:
    """Only GET and HEAD are served: the port shows, and changes nothing."""
    status, _, headers = admin.ask(path, method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_failing_metric_is_an_error_and_not_the_end(admin: Admin) -> None:
    """A metric whose function raises makes the scrape fail with 500, says so in the log, and kills nothing."""
    Gauge("broken", "Broken.", registry=admin.registry).set_function(lambda: 1 / 0)
    with capture_logs() as logs:
        status, body, _ = admin.ask("/metrics")
    assert status == 500
    assert b"ZeroDivisionError" not in body
    assert [(event["log_level"], event["path"]) for event in logs] == [("error", "/metrics")]
    assert admin.ask("/livez")[0] == 200


def test_no_access_log(admin: Admin, capfd: pytest.CaptureFixture[str]) -> None:
    """Probes and scrapes leave no trace on standard output or error."""
    for path in (*PATHS, "/nowhere"):
        admin.ask(path)
    assert capfd.readouterr() == ("", "")


def test_a_silent_client_holds_up_nobody(admin: Admin) -> None:
    """A connection that sends nothing does not keep others from an answer."""
    with socket.create_connection(("127.0.0.1", admin.port), timeout=60):
        assert admin.ask("/livez")[0] == 200


def test_a_busy_port_is_a_config_error(admin: Admin) -> None:
    """A port that is taken says which setting to change."""
    second = AdminServer(f"127.0.0.1:{admin.port}", registry=admin.registry, live=lambda: True, ready=list, policy=str)
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{admin.port}.*in use.*listen\.admin_address"):
        second.start()
    second.stop()


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:99999", "203.0.113.7:0", "no-such-host.invalid:0"])
def test_an_unusable_address_is_a_config_error(address: str) -> None:
    """A malformed address, or one of another machine, says which setting to change."""
    server = AdminServer(address, registry=CollectorRegistry(), live=lambda: True, ready=list, policy=str)
    with pytest.raises(ConfigError, match=r"listen\.admin_address"):
        server.start()


def test_stop_frees_the_port() -> None:
    """After stop the port is closed, and the same server can start again."""
    server = AdminServer("127.0.0.1:0", registry=CollectorRegistry(), live=lambda: True, ready=list, policy=str)
    port = server.start()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=60)
    assert server.start() > 0
    server.stop()


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_ipv6_is_written_in_brackets() -> None:
    """`[::1]:0` listens on IPv6's loopback."""
    server = AdminServer("[::1]:0", registry=CollectorRegistry(), live=lambda: True, ready=list, policy=str)
    try:
        port = server.start()
    except ConfigError:
        pytest.skip("this machine has no IPv6 loopback")
    with socket.create_connection(("::1", port), timeout=60) as connection:
        assert connection.family == socket.AF_INET6
    server.stop()


def test_many_scrapers(admin: Admin) -> None:
    """The first get what is true; those who ask all the time share what was made a moment ago, and not for long."""
    made: list[float] = []

    class Slow:
        def collect(self) -> Iterator[Metric]:
            made.append(time.monotonic())
            ends_s = time.thread_time() + 0.02
            while time.thread_time() < ends_s:
                pass
            yield Metric("slow", "It takes a while.", "gauge")

    admin.registry.register(Slow())  # type: ignore[arg-type]
    at_once = len(made)
    for _ in range(3):
        admin.ask("/metrics")
    assert len(made) == at_once + 3
    bodies = {admin.ask("/metrics")[1] for _ in range(100)}
    assert len(made) < at_once + 100
    assert all(b"slow" in body for body in bodies)
    assert admin.ask("/metrics", headers={"Accept": "application/openmetrics-text"})[1].endswith(b"# EOF\n")


def test_a_scraper_on_a_busy_machine(admin: Admin) -> None:
    """Metrics that took long because their thread had to wait are made anew for the next one who asks."""
    made: list[float] = []

    class Waiting:
        def collect(self) -> Iterator[Metric]:
            made.append(time.monotonic())
            time.sleep(0.3)
            yield Metric("waited", "For its turn.", "gauge")

    admin.registry.register(Waiting())  # type: ignore[arg-type]
    at_once = len(made)
    for _ in range(3):
        admin.ask("/metrics")
    assert len(made) == at_once + 3
