"""The processes that are measured: Triton behind, and each proxy in front of it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.envoy import envoy as real_envoy
from tests.support.ports import free_ports

_ENVOY = Path(__file__).parents[2] / ".venv-envoy" / "bin" / "envoy"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_START_S = 60.0
_STOP_S = 10.0
_PATIENCE = "60s"
"""How long Envoy waits for Guard: what is measured is how much they do, and not how much they give up."""

_NGINX = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  upstream triton {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} http2;
    location / {{ grpc_pass grpc://triton; }}
  }}
}}
"""


class NotInstalled(Exception):
    """A proxy that is not there; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to the server. `pids` are those of its proxy's processes; `serves` is where an Envoy finds a Guard."""

    name: str
    protocol: str
    address: str
    pids: tuple[int, ...] = ()
    serves: int = 0


@contextmanager
def pass_through(upstream: str) -> Iterator[Variant]:
    """The bare proxy in Python."""
    with python("benchmarks.references.pass_through", upstream, name="pass-through") as running:
        yield running


@contextmanager
def python(module: str, *arguments: str, name: str) -> Iterator[Variant]:
    """A proxy that is a module of Python's, and prints its port."""
    with _process([sys.executable, "-m", module, *arguments], say=True) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        port = int(process.stdout.readline())
        yield Variant(name, "grpc", f"127.0.0.1:{port}", (process.pid,))


@contextmanager
def nginx(upstream: str, folder: Path) -> Iterator[Variant]:
    """Nginx by grpc_pass, in one process.

    Raises:
        NotInstalled: it is not installed.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise NotInstalled("nginx is not installed (on Debian: the package nginx-light)")
    (port,) = free_ports(1)
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, upstream=upstream))
    with _process([program, "-p", str(folder), "-c", str(config)]) as process:
        _wait_for_port(port, process)
        yield Variant("nginx", "grpc", f"127.0.0.1:{port}", (process.pid,))


@contextmanager
def envoy(upstream: str, folder: Path) -> Iterator[Variant]:
    """Envoy, with one worker.

    Raises:
        NotInstalled: it is not installed.
    """
    if not _ENVOY.is_file():
        raise NotInstalled("Envoy is not installed (make .venv-envoy)")
    (port,) = free_ports(1)
    config = folder / "envoy.json"
    config.write_text(json.dumps(_envoy_config(port, upstream)))
    options = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
    with _process([str(_ENVOY), "-c", str(config), *options]) as process:
        _wait_for_port(port, process)
        yield Variant("Envoy", "grpc", f"127.0.0.1:{port}", (process.pid,))


@contextmanager
def beside(guard: Variant, name: str, file: str, upstream: str, folder: Path) -> Iterator[Variant]:
    """Envoy by a file of deploy/envoy, with a Guard beside it. CPU is that of both.

    Raises:
        NotInstalled: it is not installed.
    """
    if not _ENVOY.is_file():
        raise NotInstalled(f"{name}: Envoy is not installed (make .venv-envoy)")
    own = folder / name
    own.mkdir()
    with real_envoy(own, file, triton=upstream, guard_port=guard.serves, message_timeout=_PATIENCE) as running:
        yield Variant(name, "grpc", running.address, (running.pid, *guard.pids))


@contextmanager
def guard(upstream: str, folder: Path, name: str, policy: Mapping[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """Guard with a policy, which takes seconds to start."""
    listen = dict.fromkeys(("address", "http_address", "envoy_address", "admin_address"), "127.0.0.1:0")
    config = folder / f"{name}.yaml"
    config.write_text(json.dumps({"upstream": {"address": upstream}, "listen": listen, **policy}))
    command = [sys.executable, "-m", "guard", "serve", "--config", str(config), "--log-level", "error"]
    with _process(command, say=True) as process:
        yield process


def ready(process: subprocess.Popen[str], name: str) -> tuple[Variant, Variant]:
    """Guard once it is ready: as it is reached over gRPC, and over HTTP."""
    assert process.stdout is not None  # noqa: S101 - as above
    said = process.stdout.readline()
    ports = re.findall(r"port (\d+)", said)
    if len(ports) < 4:  # noqa: PLR2004 - gRPC, HTTP, Envoy, admin
        raise RuntimeError(f"Guard did not start; it said: {said!r}")
    _wait_until_ready(f"http://127.0.0.1:{ports[3]}/readyz")
    return (
        Variant(f"Guard, {name}", "grpc", f"127.0.0.1:{ports[0]}", (process.pid,), int(ports[2])),
        Variant(f"Guard over REST, {name}", "http", f"127.0.0.1:{ports[1]}", (process.pid,)),
    )


def versions() -> dict[str, str]:
    """Of the proxies that are not in Python."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    found = {}
    if program is not None:
        found["nginx"] = _said(program, "-v").rpartition("/")[2]
    if _ENVOY.is_file():
        found["envoy"] = _said(str(_ENVOY), "--version").partition("version: ")[2].split("/")[1]
    return found


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - nothing of it is foreign
    return (done.stdout + done.stderr).strip()


@contextmanager
def _process(command: list[str], *, say: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process, ended at the end; `say` to hear what it says."""
    stdout = subprocess.PIPE if say else subprocess.DEVNULL
    with subprocess.Popen(command, stdout=stdout, text=True) as process:  # noqa: S603 - nothing of it is foreign
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    ends_s = time.monotonic() + _START_S
    while time.monotonic() < ends_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not serve on port {port}")


def _wait_until_ready(url: str) -> None:
    ends_s, why = time.monotonic() + _START_S, ""
    while time.monotonic() < ends_s:
        try:
            with urllib.request.urlopen(url, timeout=5.0):  # noqa: S310 - a port of this machine
                return
        except urllib.error.HTTPError as error:
            why = error.read().decode(errors="replace")
        time.sleep(0.1)
    raise RuntimeError(f"Guard is not ready: {why}")


def _envoy_config(port: int, upstream: str) -> dict[str, Any]:
    """Plain HTTP/2 on both hops, no limits, no access log."""
    typed, extensions, host = "@type", "type.googleapis.com/envoy.extensions.", upstream.rpartition(":")
    route = {"match": {"prefix": "/"}, "route": {"cluster": "triton", "timeout": "0s"}}
    router = {typed: f"{extensions}filters.http.router.v3.Router"}
    manager = {
        typed: f"{extensions}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    protocol = {
        typed: f"{extensions}upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": _socket(host[0], int(host[2]))}}
    cluster = {
        "name": "triton",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "triton", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {_HTTP_OPTIONS: protocol},
    }
    filters = [{"name": "http", "typed_config": manager}]
    listener = {"name": "in", "address": _socket("127.0.0.1", port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
