"""A loop on a thread of its own: tests use blocking clients against asynchronous servers."""

from __future__ import annotations

from guard.background import LoopThread

__all__ = ["LoopThread"]
