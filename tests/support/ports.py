"""Ports for servers that can't choose one themselves."""

from __future__ import annotations

import contextlib
import random
import socket

_RANGE = range(10_240, 32_768)
"""Below those that Linux gives to who asks for any port, or connects: between a port's choice and its server's start
nobody else gets it by chance."""


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens: all bound at once, so that they differ, and let go."""
    dice = random.SystemRandom()  # not the seeded one: two processes would choose the same
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            bound, port = stack.enter_context(socket.socket()), dice.choice(_RANGE)
            with contextlib.suppress(OSError):
                bound.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def free_address() -> str:
    """An address of this machine on which nothing listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"
