"""A real Redis or Valkey server as a child process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.ports import free_ports

BINARY = shutil.which("valkey-server") or shutil.which("redis-server")
needs_store = pytest.mark.skipif(
    BINARY is None, reason="no valkey-server or redis-server is installed (Debian package: redis-server)"
)

_START_S = 60.0
_STOP_S = 60.0


class Store:
    """An empty store on a loopback port, which stays the same over restarts. Nothing is kept on disk."""

    def __init__(self, folder: Path, options: Sequence[str] = (), **client: Any) -> None:
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder, self._options = folder, options
        self._client = client
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert BINARY is not None
        fixed = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        port = ["--tls-port", str(self.port), "--port", "0"] if self._client.get("ssl") else ["--port", str(self.port)]
        self._process = subprocess.Popen([BINARY, *port, *fixed, *self._options], stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + _START_S
        with self.client() as client:
            while time.monotonic() < deadline_s:
                try:
                    client.ping()
                except (redis.ConnectionError, redis.TimeoutError):
                    time.sleep(0.02)
                else:
                    return
        raise RuntimeError(f"{BINARY} did not answer on port {self.port} in {_START_S:g} s")

    def kill(self) -> None:
        """End the server as a crash would. It is not an error if it doesn't run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)
            self._process = None

    def pause(self) -> None:
        """Let the server answer nothing, though its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> Any:
        """A client of the test's own."""
        return redis.Redis(**({"host": "127.0.0.1", "port": self.port, "socket_timeout": 5.0} | self._client))
