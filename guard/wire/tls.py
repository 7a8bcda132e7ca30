"""Guard's own certificate towards clients, for both protocols, and the names of clients who show one."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
import structlog

from guard.credentials import Credentials, WatchedTls, watch_credentials
from guard.transport import ListenTls

SECTION = "listen.tls"

_log = structlog.get_logger(__name__)


class ServerTls:
    """TLS of a gRPC server: each new connection gets the certificate that the files hold then.

    A `quiet` one leaves it to another to log what is wrong with the files.

    Raises:
        FileUnusable: a certificate or key can't be used.
    """

    def __init__(self, settings: ListenTls, *, quiet: bool = False) -> None:
        self.files: WatchedTls = watch_credentials(SECTION, settings, quiet=quiet)
        self._asks_clients = settings.client_ca_file is not None
        self._shown = self.files.current()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """What to open a port with."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._shown),
            self._changed,  # type: ignore[arg-type]  # the stubs leave out that there may be nothing new
            require_client_authentication=self._asks_clients,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What is new since the last connection. gRPC asks on threads of its own."""
        current = self.files.current()
        if current is self._shown:
            return None
        self._shown = current
        return _configuration(current)


def server_context(settings: ListenTls, protocols: Sequence[str] = ("http/1.1",)) -> ssl.SSLContext:
    """TLS for a server that is no gRPC's, whose new connections get the certificate that the files hold then.

    `protocols` are those that it offers (ALPN). It logs nothing, for the gRPC server has the same files.

    Raises:
        FileUnusable: a certificate or key can't be used.
    """
    contexts = _Contexts(settings, protocols)
    context = contexts.make(contexts.shown)
    # A session that a client takes up again would not be asked for its certificate, nor by whom that is signed now.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.sni_callback = contexts.renew
    return context


class _Contexts:
    """Makes a context of what the files hold, and hands it to connections as they begin."""

    def __init__(self, settings: ListenTls, protocols: Sequence[str]) -> None:
        self._settings, self._protocols = settings, protocols
        self._files = watch_credentials(SECTION, settings, quiet=True)
        self._lock = threading.Lock()
        self.shown = self._files.current()
        self._context: ssl.SSLContext | None = None

    def make(self, credentials: Credentials) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(list(self._protocols))
        # From the files, for the library takes keys from nowhere else: it refuses two that don't belong together.
        context.load_cert_chain(self._settings.certificate_file, self._settings.key_file, password="")
        if credentials.authorities is not None:
            context.load_verify_locations(cadata=credentials.authorities.decode("ascii", "ignore"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def renew(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Give a connection the newest context. The library calls this when a client has said hello."""
        with self._lock:
            current = self._files.current()
            if current is not self.shown:
                try:
                    self._context = self.make(current)
                    self.shown = current
                except (OSError, ValueError):  # changed again meanwhile: the next connection tries again
                    _log.debug("the certificate was not read again", exc_info=True)
            if self._context is not None:
                connection.context = self._context


def certificate_name(identities: Iterable[str]) -> str:
    """The name of a client, by what its certificate names: its alternative names, or else its common name."""
    return "certificate:" + ",".join(sorted(identities))


def name_of_peer(certificate: Mapping[str, Any] | None) -> str | None:
    """The name of a client by its certificate, as `ssl` gives it, the same as gRPC's; None without one."""
    if not certificate:
        return None
    named = [str(value) for _, value in certificate.get("subjectAltName", ())]
    common = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return certificate_name(named or common)


def _configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    pairs = [(credentials.key or b"", credentials.certificate or b"")]
    return grpc.ssl_server_certificate_configuration(pairs, credentials.authorities)
