"""The v2 protocol over HTTP: the same passage as gRPC's, and gRPC to the guarded server."""

from guard.wire.rest.server import RestServer

__all__ = ["RestServer"]
