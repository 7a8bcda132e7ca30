"""The composition root: settings to objects to a running server."""

from guard.app.sidecar import Sidecar, serve

__all__ = ["Sidecar", "serve"]
