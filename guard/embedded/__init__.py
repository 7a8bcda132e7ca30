"""A small real v2 inference server on ONNX Runtime, for whoever has a model and no server."""

from guard.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
