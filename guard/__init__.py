"""Guard: a gRPC sidecar that screens inference traffic for adversarial inputs."""

__version__ = "0.1.0"
