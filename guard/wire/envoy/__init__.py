"""The second way in: Envoy carries the traffic, and asks Guard about each request or sends it a copy."""

from guard.wire.envoy.server import EnvoyServer

__all__ = ["EnvoyServer"]
