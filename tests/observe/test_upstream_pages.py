"""What the admin port says of the guarded server: asked over real HTTP, of real servers."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from guard.channel import Link
from guard.config import Upstream
from guard.observe.admin import AdminServer
from guard.observe.upstream import UpstreamPages
from tests.cli.test_serve import get
from tests.support.loop import LoopThread
from tests.support.sidecars import embedded

NOWHERE = "127.0.0.1:1"


@contextmanager
def admin(upstream: str, metrics_address: str | None = None) -> Iterator[int]:
    """The port of an admin server with the pages about a server."""
    shown = UpstreamPages(Link(Upstream(address=upstream)), metrics_address)
    server = AdminServer(
        "127.0.0.1:0",
        registry=CollectorRegistry(),
        live=lambda: True,
        ready=list,
        policy=str,
        more=shown.pages(),
    )
    try:
        yield server.start()
    finally:
        server.stop()
        shown.close()


@contextmanager
def exporter(status: int, body: bytes) -> Iterator[str]:
    """The address of a server that has metrics."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_health_of_a_running_server(digits_onnx: Path) -> None:
    """A server that is up is live and ready; one that is gone is neither, and Guard's own liveness doesn't mind."""
    with LoopThread() as loop:
        with embedded(loop, {"digits": digits_onnx}) as address, admin(address) as port:
            assert get(port, "/upstream/livez") == (200, "live\n")
            assert get(port, "/upstream/readyz") == (200, "ready\n")
        with admin(NOWHERE) as port:
            for page in ("/upstream/livez", "/upstream/readyz"):
                status, why = get(port, page)
                assert status == 503
                assert "no inference server answers" in why
            assert get(port, "/livez")[0] == 200


def test_metrics_pass_through() -> None:
    """What the server exports is shown as it is."""
    with exporter(200, b"nv_inference_request_success 7\n") as address, admin(NOWHERE, address) as port:
        assert get(port, "/upstream/metrics") == (200, "nv_inference_request_success 7\n")


def test_no_metrics_names_the_setting() -> None:
    """A server without metrics, or that fails, is a bad gateway; what can't be reached names the setting."""
    with admin(NOWHERE, NOWHERE) as port:
        status, why = get(port, "/upstream/metrics")
        assert status == 502
        assert "upstream.metrics_address" in why
    with exporter(500, b"") as address, admin(NOWHERE, address) as port:
        assert get(port, "/upstream/metrics")[0] == 502


@pytest.mark.parametrize("path", ["/upstream/metrics", "/upstream/", "/upstream/v2/repository/index"])
def test_nothing_else_is_passed_on(path: str) -> None:
    """The admin port is no way to the server: without a setting there are no metrics, and there is no other path."""
    with admin(NOWHERE) as port:
        assert get(port, path)[0] == 404
