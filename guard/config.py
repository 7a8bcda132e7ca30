"""Settings: one YAML file, parsed once into frozen values. `config_file` reads it and explains its mistakes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from guard.values import Action, Mode

MEBIBYTE = 1024 * 1024


class Replica(StrEnum):
    """What answers Guard's own evaluations."""

    ONNX = "onnx"
    UPSTREAM = "upstream"


class Cancellation(StrEnum):
    """Whether a client's cancellation or expired deadline is passed on to the upstream."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Unlisted(StrEnum):
    """What happens to a model that no policy names."""

    DENY = "deny"
    PASS = "pass"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Upstream(_Section):
    """The guarded server."""

    address: str = Field("127.0.0.1:8001", description="host:port or unix:path of the guarded server's gRPC endpoint")
    cancellation: Cancellation = Field(
        Cancellation.AUTO,
        description="pass client cancellations and deadlines upstream: auto (only to versions known to survive it), "
        "always or never",
    )
    max_message_bytes: int = Field(64 * MEBIBYTE, ge=1024, description="largest gRPC message in either direction")


class Listen(_Section):
    """Where Guard serves."""

    address: str = Field("0.0.0.0:8011", description="host:port of Guard's gRPC endpoint")
    admin_address: str = Field("127.0.0.1:9011", description="host:port of /metrics, /livez and /readyz")


class Limits(_Section):
    """Bounds on what one Guard holds at a time."""

    max_queued_items: int = Field(256, ge=1, description="items waiting for the engine, over which Guard is overloaded")
    max_live_items: int = Field(16, ge=1, description="items the engine screens at once")
    max_batch_items: int = Field(256, ge=1, description="items in one request")


class ModelPolicy(_Section):
    """How one model is guarded."""

    profile: Path = Field(description="directory written by `guard calibrate`")
    replica: Replica = Field(
        Replica.ONNX, description="onnx: the model file named by `model`; upstream: the guarded server itself"
    )
    model: Path | None = Field(None, description="the ONNX file, needed for replica: onnx")
    mode: Mode = Field(Mode.SHADOW, description="shadow: only watch; flag: forward and mark; enforce: reject")
    false_positive_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.01, description="share of benign inputs that may be judged adversarial"
    )
    on_unscreened: Action = Field(Action.REJECT, description="what to do with what could not be screened")
    on_abstain: Action = Field(Action.FLAG, description="what to do where the detectors can't tell")
    require_certificate: bool = Field(False, description="abstain on inputs whose radius can't be certified")
    screening_budget_s: float = Field(2.0, gt=0, description="longest time screening may take, in seconds")


class Settings(_Section):
    """Everything `guard serve` needs."""

    upstream: Upstream = Upstream()
    listen: Listen = Listen()
    limits: Limits = Limits()
    unlisted_models: Unlisted = Field(Unlisted.DENY, description="deny, or pass unscreened (and counted)")
    noise_secret_file: Path | None = Field(
        None,
        description="file whose bytes seed the noise; without it a fresh secret is drawn at start. Replicas of one "
        "deployment share it, so that a replayed request gets the same answer from each",
    )
    models: dict[str, ModelPolicy] = Field(default_factory=dict, description="policy by model name")
