"""The composition root: settings to objects to a running server."""

from guard.app.reload import Reload
from guard.app.serve import serve
from guard.app.sidecar import Sidecar

__all__ = ["Reload", "Sidecar", "serve"]
