"""Is the guarded server reachable around Guard?

Asked from where Guard runs, with nothing that proves who asks: whoever shares a network with the server may see more
of it than this.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator

from guard.channel import Link
from guard.config import Settings, Upstream, host_and_port
from guard.doctor.values import Finding, Level
from guard.errors import BackendError, BackendTimeout, GuardError
from guard.model.client import Client
from guard.pb import grpc_service_pb2 as v2

CHECK = "around guard"
HTTP_PORT = 8000
"""Where Triton serves HTTP unless told otherwise."""

_TIMEOUT_S = 3.0
_REFUSALS = ("restricted", "PERMISSION_DENIED", "UNAUTHENTICATED")
"""Triton's word where a call lacks the secret, and what other servers answer."""

_FORBIDDEN = (http.client.UNAUTHORIZED, http.client.FORBIDDEN)
_NOWHERE = ("192.0.2.1", 9)  # of RFC 5737, for documentation; nothing is sent there
_ASK = (
    "have it ask for a secret (--grpc-restricted-protocol and --http-restricted-api of tritonserver, and "
    "upstream.restricted_protocol here)"
)


def reachable_around(settings: Settings, http_port: int = HTTP_PORT) -> Iterator[Finding]:
    """Whether inference at the server is open to who does not come through Guard, by gRPC or by HTTP."""
    upstream = settings.upstream
    if upstream.address.startswith("unix:"):
        yield Finding(CHECK, Level.OK, f"the server listens at {upstream.address}: the file's permissions say who may")
        return
    if _takes_grpc(upstream) is None:
        found = f"no server answers at {upstream.address}, so whether there is a way round Guard can't be seen"
        yield Finding(CHECK, Level.NOTE, found, "start it, and look again")
        return
    host, _ = host_and_port(upstream.address)
    stranger = _without_proof(upstream)
    proves = stranger != upstream
    # Where there is something to prove, nobody is to get in without it; else nobody from another machine.
    hosts = [host] if proves or not _is_loopback(host) else own_addresses()
    yield _judged("gRPC", hosts, proves, lambda each: _takes_grpc(_at(stranger, each)))
    if _is_own(host) and settings.listen.http_address and host_and_port(settings.listen.http_address)[1] == http_port:
        found = f"HTTP at port {http_port} of this machine is Guard's own (listen.http_address), so it was not asked"
        yield Finding(CHECK, Level.NOTE, found, "say with --http-port where the server has its own, if it serves HTTP")
    else:
        yield _judged("HTTP", hosts, proves, lambda each: _takes_http(each, http_port))


def _judged(protocol: str, hosts: Iterable[str], proves: bool, takes: Callable[[str], bool | None]) -> Finding:  # noqa: FBT001 - of one call
    answers = {host: takes(host) for host in hosts}
    if open_at := [host for host, answer in answers.items() if answer]:
        found = f"the server takes inference by {protocol} at {', '.join(open_at)} from who does not come through Guard"
        bind = "" if proves else "bind it to loopback (--grpc-address, --http-address) or a unix: socket, or "
        return Finding(CHECK, Level.PROBLEM, found, bind + _ASK)
    if False in answers.values():
        return Finding(CHECK, Level.OK, f"the server refuses inference by {protocol} without proof of who asks")
    where = f"at {', '.join(answers)}" if answers else "but on loopback, for there is no other address"
    return Finding(CHECK, Level.OK, f"nobody gets inference by {protocol} {where}")


def _without_proof(upstream: Upstream) -> Upstream:
    """The settings of a client that has neither the secret nor a certificate."""
    tls = upstream.tls and upstream.tls.model_copy(update={"certificate_file": None, "key_file": None})
    return upstream.model_copy(update={"restricted_protocol": None, "tls": tls})


def _takes_grpc(server: Upstream) -> bool | None:
    """Whether a server takes an empty request for inference as one that is wrong; None if there is no server."""
    try:
        client = Client(Link(server))
    except GuardError:
        return None
    try:
        client.call("ModelInfer", v2.ModelInferRequest(), v2.ModelInferResponse, _TIMEOUT_S)
    except GuardError as error:
        if any(word in str(error) for word in _REFUSALS):
            return False
        return None if isinstance(error, BackendTimeout) or not isinstance(error, BackendError) else True
    finally:
        client.close()
    return True


def _takes_http(host: str, port: int) -> bool | None:
    """The same by HTTP. A server of another protocol is no server."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", "/v2/models/guard-doctor/infer", b"{}")
        response = connection.getresponse()
        if b'"error"' not in response.read():
            return None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return response.status not in _FORBIDDEN


def own_addresses() -> list[str]:
    """Addresses of this machine that other machines may know."""
    found = set()
    with contextlib.suppress(OSError):
        found |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_NOWHERE)
        found.add(probe.getsockname()[0])
    return sorted(address for address in found if not _is_loopback(address) and "%" not in address)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_own(host: str) -> bool:
    """Whether a host is this machine, by any of its names."""
    own = own_addresses()
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        addresses = {host}
    return any(_is_loopback(address) or address in own for address in addresses)


def _at(upstream: Upstream, host: str) -> Upstream:
    _, port = host_and_port(upstream.address)
    return upstream.model_copy(update={"address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"})
