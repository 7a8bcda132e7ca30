"""How slowly a client may send a request, or take an answer: those that are slower hold memory for too long."""

from __future__ import annotations

GRACE_S = 20.0
"""Seconds that each may take."""

LEAST_BYTES_PER_S = 1 << 16
"""... and those that it gets for its bytes."""
