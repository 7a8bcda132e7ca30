"""The admin port: /metrics for Prometheus, /livez and /readyz for whoever keeps Guard running, /policy for people.

It shows, and changes nothing: whoever reaches it can stop nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from socket import AF_INET, AF_INET6
from socketserver import TCPServer, ThreadingMixIn
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from guard.config import host_and_port
from guard.errors import AddressUnusable
from guard.observe.answer import Answer, Page, text, unavailable

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PATHS = ("/metrics", "/livez", "/readyz", "/policy")
CONSOLE = "/console"
_IDLE_CONNECTION_S = 10.0
_SHARE = 0.05
_BURST_S = 0.1
"""Making the metrics takes that share of a processor's time in the long run, and as much at once. Beyond it scrapers
get what was made last, a moment ago: they share the interpreter with requests. Waiting for the processor costs nothing,
or a busy machine would show old metrics just when they matter."""

_STOP_POLL_S = 0.1

_log = structlog.get_logger(__name__)


class AdminServer:
    """Serves the admin port on threads of its own, so that it answers while the event loop is busy.

    `live` says whether the process is worth keeping. `ready` lists the reasons why it can't do its job, none when it
    can. `policy` says which policy is in force. `more` are other pages by their paths; `console`, if there is one, gets
    all that is asked for at CONSOLE and below. They are called on the server's threads.
    """

    def __init__(
        self,
        address: str,
        *,
        registry: CollectorRegistry,
        live: Callable[[], bool],
        ready: Callable[[], list[str]],
        policy: Callable[[], str],
        more: Mapping[str, Page] | None = None,
        console: Callable[[WSGIEnvironment], Answer] | None = None,
    ) -> None:
        self._address = address
        self._scrapes = _Scrapes(make_wsgi_app(registry))
        self._live = live
        self._ready = ready
        self._policy = policy
        own = {"/livez": self._livez, "/readyz": self._readyz, "/policy": self._policyz}
        self._pages: dict[str, Page] = {**own, **(more or {})}
        self._console = console
        self._running: tuple[_Server, Thread] | None = None

    def start(self) -> int:
        """Bind and serve. Returns the port, which the system chose if the address says port 0.

        Raises:
            AddressUnusable: the address is malformed, in use, or not one of this machine.
        """
        try:
            server = _Server(*host_and_port(self._address))
        except (OSError, ValueError) as exc:
            why = str(getattr(exc, "strerror", None) or exc)
            raise AddressUnusable(self._address, "listen.admin_address", why) from exc
        server.set_app(self._app)
        thread = Thread(target=server.serve_forever, args=(_STOP_POLL_S,), name="guard-admin", daemon=True)
        thread.start()
        self._running = server, thread
        return server.server_port

    def stop(self) -> None:
        """Close the port. Does nothing if the server isn't running."""
        if self._running is None:
            return
        server, thread = self._running
        self._running = None
        server.shutdown()
        server.server_close()
        thread.join()

    def _app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            status, headers, body = self._answer(environ)
        except Exception:  # noqa: BLE001 - the boundary: every error becomes a status
            _log.exception("the admin port failed", path=environ["PATH_INFO"])
            status, headers, body = text(HTTPStatus.INTERNAL_SERVER_ERROR, "guard failed to answer; its log says why")
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        path = environ["PATH_INFO"]
        if self._console is not None and (path == CONSOLE or path.startswith(f"{CONSOLE}/")):
            return self._console(environ)
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            status, headers, body = text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are served")
            return status, [*headers, ("Allow", "GET, HEAD")], body
        if path == "/metrics":
            return self._scrapes.answer(environ)
        page = self._pages.get(path)
        if page is not None:
            return page()
        there = ("/metrics", *self._pages, *(() if self._console is None else (CONSOLE,)))
        return text(HTTPStatus.NOT_FOUND, f"nothing is here; there are {', '.join(there)}")

    def _livez(self) -> Answer:
        return text(HTTPStatus.OK, "live") if self._live() else unavailable(["not live"])

    def _readyz(self) -> Answer:
        reasons = self._ready()
        return unavailable(reasons) if reasons else text(HTTPStatus.OK, "ready")

    def _policyz(self) -> Answer:
        return text(HTTPStatus.OK, self._policy())


class _Scrapes:
    """The metrics as Prometheus wants them, made one at a time, and not too often."""

    def __init__(self, make: WSGIApplication) -> None:
        self._make = make
        self._lock = Lock()
        self._spent_s = 0.0
        self._at_s = time.monotonic()
        self._last: dict[tuple[str, ...], Answer] = {}

    def answer(self, environ: WSGIEnvironment) -> Answer:
        """What a scraper gets."""
        asked = tuple(environ.get(key, "") for key in ("HTTP_ACCEPT", "HTTP_ACCEPT_ENCODING", "QUERY_STRING"))
        with self._lock:
            began_s = time.monotonic()
            self._spent_s = max(0.0, self._spent_s - _SHARE * (began_s - self._at_s))
            self._at_s = began_s
            if self._spent_s > _BURST_S and asked in self._last:
                return self._last[asked]
            worked_s = time.thread_time()
            made = self._made(environ)
            self._spent_s += time.thread_time() - worked_s
            self._last = {asked: made}  # no more, for scrapers may ask in any words
            return made

    def _made(self, environ: WSGIEnvironment) -> Answer:
        began: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
            began.append((status, headers))
            return bytes

        body = b"".join(self._make({**environ, "REQUEST_METHOD": "GET"}, start))
        return *began[0], body


class _Handler(WSGIRequestHandler):
    timeout = _IDLE_CONNECTION_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        """Keep no access log: probes and scrapes come every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without asking the name service who this is, as the base class would, for that may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - as in the base class
        """A client that went away or fell silent is no one's concern."""
        _log.debug("an admin connection broke", exc_info=True)
