"""The demo's loop on a thread of its own: tests, too, use blocking clients against asynchronous servers."""

from __future__ import annotations

from guard.demo.background import LoopThread

__all__ = ["LoopThread"]
