"""Settings: one YAML file, parsed once into frozen values. `config_file` reads it and explains its mistakes."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from guard import sharing
from guard.recording import Audit, Console
from guard.transport import Compression, ListenTls, RestrictedProtocol, SocketAccess, UpstreamTls
from guard.values import Action, Mode

MEBIBYTE = 1024 * 1024
LARGEST_GRPC_BYTES = 2**31 - 1
"""gRPC keeps message sizes in a signed 32-bit integer."""

VERSION_MARK = "@"
"""Stands between a model's name and a version of it, where a policy is for one version only."""

MODEL_NAME = f"[^{VERSION_MARK}]+({VERSION_MARK}[^{VERSION_MARK}]+)?"
"""What policies are listed under."""

_HOST_PORT = r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})"
_UNIX = r"unix:\S+"
_LARGEST_PORT = 65535


def host_and_port(address: str) -> tuple[str, int]:
    """Split `host:port`; an IPv6 host stands in brackets, which are taken off.

    Raises:
        ValueError: the address has another form, or its port is over 65535.
    """
    match = re.fullmatch(_HOST_PORT, address)
    if match is None:
        raise ValueError("it has no host and port")
    host, port = match[1].strip("[]"), int(match[2])
    if port > _LARGEST_PORT:
        raise ValueError(f"port {port} is over {_LARGEST_PORT}")
    return host, port


def model_and_version(name: str) -> tuple[str, str]:
    """The model that a policy is for, and its version: "" where the name has none."""
    model, _, version = name.partition(VERSION_MARK)
    return model, version


def _checked(address: str) -> str:
    try:
        host_and_port(address)
    except ValueError as exc:
        raise PydanticCustomError("address", "{why}", {"why": str(exc)}) from exc
    return address


def _checked_unless_unix(address: str) -> str:
    return address if re.fullmatch(_UNIX, address) else _checked(address)


def _checked_store(url: str) -> str:
    try:
        sharing.store_address(url)
    except ValueError as exc:
        kind = "secret" if isinstance(exc, sharing.HoldsPassword) else "address"
        raise PydanticCustomError(kind, "{why}", {"why": str(exc)}) from exc
    return url


# The patterns say in the JSON Schema what the validators check here, so that editors know it too.
HostPort: TypeAlias = Annotated[str, AfterValidator(_checked), Field(json_schema_extra={"pattern": f"^{_HOST_PORT}$"})]
HostPortOrUnix: TypeAlias = Annotated[
    str, AfterValidator(_checked_unless_unix), Field(json_schema_extra={"pattern": f"^({_UNIX}|{_HOST_PORT})$"})
]
StoreUrl: TypeAlias = Annotated[
    str, AfterValidator(_checked_store), Field(json_schema_extra={"pattern": f"^{sharing.PATTERN}$"})
]
# Strict, because YAML has real numbers and booleans: `true` is no number, and text is neither.
Count: TypeAlias = Annotated[int, Field(ge=1, strict=True)]


class Replica(StrEnum):
    """What answers Guard's own evaluations."""

    ONNX = "onnx"
    UPSTREAM = "upstream"


class Device(StrEnum):
    """Where an ONNX replica runs."""

    CPU = "cpu"
    CUDA = "cuda"


class Cancellation(StrEnum):
    """Whether a client's cancellation or expired deadline is passed on to the upstream."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Unlisted(StrEnum):
    """What happens to a model that no policy names."""

    DENY = "deny"
    PASS = "pass"  # noqa: S105 - a policy, not a password


class SharedMemory(StrEnum):
    """What is made of tensors in shared memory."""

    DENY = "deny"
    COPY = "copy"


class ScreenOnly(StrEnum):
    """What is made of requests for a verdict alone."""

    DENY = "deny"
    ALLOW = "allow"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Upstream(_Section):
    """The guarded server."""

    address: HostPortOrUnix = Field(
        "127.0.0.1:8001", description="host:port or unix:path of the guarded server's gRPC endpoint"
    )
    cancellation: Cancellation = Field(
        Cancellation.AUTO,
        description="pass client cancellations and deadlines upstream: auto (only to versions known to survive it), "
        "always or never",
    )
    max_message_bytes: int = Field(
        64 * MEBIBYTE,
        ge=1024,
        le=LARGEST_GRPC_BYTES,
        strict=True,
        description="largest gRPC message in either direction, in bytes",
    )
    tls: UpstreamTls | None = Field(
        None, description="TLS towards the upstream; {} where nothing of it has to be said. Without it there is none"
    )
    restricted_protocol: RestrictedProtocol | None = Field(
        None, description="the secret of a Triton with --grpc-restricted-protocol, which refuses who comes without it"
    )
    compression: Compression = Field(
        Compression.NONE, description="of requests to the upstream: none, gzip or deflate; it costs Guard's CPU"
    )
    keepalive_s: float = Field(
        310.0,
        ge=1,
        strict=True,
        allow_inf_nan=False,
        description="silence during a call after which Guard asks whether the upstream is there, in seconds; servers "
        "cut off who asks more often than they allow, which by default is every 300",
    )
    metrics_address: HostPort | None = Field(
        None,
        description="host:port of the guarded server's own metrics; /upstream/metrics on the admin port then has them",
    )
    unresponsive_s: float = Field(
        4.0,
        ge=0.1,
        strict=True,
        allow_inf_nan=False,
        description="silence during calls after which an upstream that doesn't answer either whether it lives is taken "
        "for dead, in seconds: calls then end as UNAVAILABLE until it answers. Raise it for servers that compute on "
        "the thread that answers, as some in Python do; lower it to 0.8 where processors are plenty, and a server that "
        "is stopped shows within a second",
    )


class Listen(_Section):
    """Where Guard serves."""

    address: HostPortOrUnix = Field("0.0.0.0:8011", description="host:port or unix:path of Guard's gRPC endpoint")
    http_address: HostPort | None = Field(
        None, description="host:port of Guard's HTTP endpoint, which has the same protocol; without it there is none"
    )
    envoy_address: HostPortOrUnix | None = Field(
        None,
        description="host:port or unix:path for an Envoy that carries the traffic itself, and asks Guard by external "
        "processing or mirrors requests to it (see deploy/envoy); without it there is none. Nobody else may reach it",
    )
    tls: ListenTls | None = Field(None, description="TLS towards clients; without it there is none")
    socket_access: SocketAccess = Field(
        SocketAccess.GROUP, description="who may open the socket of a unix:path: owner, group or everyone"
    )
    keepalive_s: float = Field(
        60.0,
        ge=1,
        strict=True,
        allow_inf_nan=False,
        description="silence after which Guard asks whether a client is there, in seconds",
    )
    admin_address: HostPort = Field("127.0.0.1:9011", description="host:port of /metrics, /livez and /readyz")
    drain_delay_s: float = Field(
        5.0,
        ge=0,
        strict=True,
        allow_inf_nan=False,
        description="after SIGUSR1: how long Guard, no longer ready, still takes calls, so that load balancers "
        "notice, in seconds",
    )
    drain_grace_s: float = Field(
        30.0, ge=0, strict=True, allow_inf_nan=False, description="how long running calls then have, in seconds"
    )


class Limits(_Section):
    """Bounds on what one Guard holds at a time."""

    max_queued_items: Count = Field(256, description="items waiting for the engine, over which Guard is overloaded")
    max_live_items: Count | None = Field(
        None,
        description="items the engine screens at once. Without it 64, and with device: cuda as many more as fill the "
        "GPU's batches with their first copies",
    )
    max_batch_items: Count = Field(256, description="items in one request")
    max_inflight_bytes: Count = Field(
        512 * MEBIBYTE, description="bytes of all requests that are in flight, over which Guard is overloaded"
    )
    max_concurrent_streams: Count = Field(
        1024, description="calls at once on one connection; a client that has more waits with them"
    )
    max_image_pixels: Count = Field(
        25_000_000,
        description="pixels of one encoded image, before it is resized; a request's images may have four times as many "
        "together",
    )
    max_remembered_queries: Count = Field(
        65_536, description="queries of a model that are remembered, at about a hundred bytes each"
    )


class QueryStore(_Section):
    """Where replicas share what they remember."""

    url: StoreUrl | None = Field(
        None,
        description="redis://user@host:port/database of a Redis or Valkey server, rediss:// with TLS, and its password "
        "in password_file; user, port and database may be left out. Without it each Guard remembers alone",
    )
    password_file: Path | None = Field(None, description="file with the password")
    ca_file: Path | None = Field(None, description="PEM file of who signed the server's certificate, if not the usual")
    timeout_s: float = Field(
        1.0, gt=0, strict=True, allow_inf_nan=False, description="longest wait for each answer of it, in seconds"
    )


class Tracing(_Section):
    """Traces of requests, for a collector of OpenTelemetry's."""

    address: HostPort | None = Field(
        None, description="host:port of a collector that speaks OTLP over gRPC; without it nothing is traced"
    )
    tls: bool = Field(default=False, strict=True, description="TLS towards the collector")
    ca_file: Path | None = Field(
        None, description="PEM file of who signed the collector's certificate, if not the authorities gRPC knows"
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1, strict=True)] = Field(
        0.01,
        description="share of requests that are traced; Guard draws them, and tells the guarded server. What clients "
        "say of sampling does not count, and their trace is linked to",
    )
    max_queued_spans: Count = Field(2048, description="spans that wait for the collector, over which they are dropped")
    timeout_s: float = Field(
        10.0, gt=0, strict=True, allow_inf_nan=False, description="longest wait for the collector, in seconds"
    )


class Certify(StrEnum):
    """What is made of a model's certificate of robustness."""

    SKIP = "skip"
    REPORT = "report"
    REQUIRE = "require"


class Queries(StrEnum):
    """What is made of queries that resemble earlier ones, as those of an attack do."""

    SKIP = "skip"
    REPORT = "report"
    REJECT = "reject"


class ModelPolicy(_Section):
    """How one model is guarded."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"replica": {"const": Replica.UPSTREAM.value}}, "required": ["replica"]},
            "else": {"properties": {"model": {"type": "string"}}, "required": ["model"]},
        }
    )

    profile: Path = Field(description="directory written by `guard calibrate`")
    replica: Replica = Field(
        Replica.ONNX, description="onnx: the model file named by `model`; upstream: the guarded server itself"
    )
    model: Path | None = Field(None, description="the ONNX file, needed for replica: onnx")
    device: Device = Field(Device.CPU, description="where an ONNX replica runs: cpu, or cuda (the `gpu` extra)")
    mode: Mode = Field(Mode.SHADOW, description="shadow: only watch; flag: forward and mark; enforce: reject")
    false_positive_rate: float = Field(
        0.01, gt=0, lt=1, strict=True, description="share of benign inputs that may be judged adversarial"
    )
    false_positive_confidence: Annotated[float, Field(gt=0, lt=1, strict=True)] | None = Field(
        None,
        description="keep the rate with this confidence over the draw of the calibration samples, for example 0.95, "
        "instead of on average",
    )
    speculative: bool = Field(
        default=False,
        strict=True,
        description="in enforce mode, have the guarded server run while screening does, and hold its answer back until "
        "the verdict: less latency, and the server computes for nothing what is rejected",
    )
    on_unscreened: Action = Field(Action.REJECT, description="what to do with what could not be screened")
    on_abstain: Action = Field(Action.FLAG, description="what to do where the detectors can't tell")
    certificate: Certify = Field(
        Certify.SKIP,
        description="skip the certificate (it costs evaluations), report it, or require it: abstain on inputs whose "
        "radius can't be certified",
    )
    certified_radius: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] | None = Field(
        None, description="L2 radius to certify, in units of the model's input; without it the profile's"
    )
    queries: Queries = Field(
        Queries.REPORT,
        description="skip what clients sent before, report inputs that probe around earlier ones as query attacks do, "
        "or reject those as adversarial; inputs that are no images are never compared",
    )
    query_limit: Count = Field(
        3,
        description="distinct near-duplicates of an input that its client may have sent before; of all clients, half "
        "as many more. Raise it, or skip, where clients send many views of one scene, such as a fixed camera's",
    )
    query_memory_s: float = Field(
        86_400.0, gt=0, strict=True, allow_inf_nan=False, description="how long a query is remembered, in seconds"
    )
    drift_false_alarm: float = Field(
        1e-4,
        ge=0,
        lt=1,
        strict=True,
        description="chance that drift of a model's scores is reported where there is none, in a run of Guard; 0 does "
        "not look for drift",
    )
    self_test_interval_s: float = Field(
        60.0,
        ge=0,
        strict=True,
        allow_inf_nan=False,
        description="how often Guard screens the few adversarial inputs that the profile keeps, to see that it still "
        "finds them, in seconds; 0 never does",
    )
    screening_budget_s: float = Field(
        2.0, gt=0, strict=True, allow_inf_nan=False, description="longest time screening may take, in seconds"
    )


class Settings(_Section):
    """Everything `guard serve` needs."""

    upstream: Upstream = Field(Upstream(), description="the guarded server")
    listen: Listen = Field(Listen(), description="where Guard serves")
    limits: Limits = Field(Limits(), description="bounds on what one Guard holds at a time")
    query_store: QueryStore = Field(QueryStore(), description="where replicas share the queries that they remember")
    audit: Audit = Field(Audit(), description="what is kept for those who look into an incident")
    tracing: Tracing = Field(Tracing(), description="traces of requests, for a collector of OpenTelemetry's")
    console: Console = Field(Console(), description="a web page for people on the admin port")
    unlisted_models: Unlisted = Field(Unlisted.DENY, description="deny, or pass unscreened (and counted)")
    shared_memory: SharedMemory = Field(
        SharedMemory.DENY,
        description="tensors in system shared memory: deny, or, for gRPC clients on the same machine, copy them into "
        "the request that is screened and sent on, with regions registered at Guard; CUDA regions are always denied",
    )
    screen_only: ScreenOnly = Field(
        ScreenOnly.DENY,
        description="requests with the header guard-screen-only, which ask for a verdict and no inference: deny or "
        "allow; they cost screening, and are remembered and counted like all others",
    )
    noise_secret_file: Path | None = Field(
        None,
        description="file whose bytes seed the noise and key the fingerprints of queries; without it a fresh secret is "
        "drawn at start. Replicas of one deployment share it, so that a replayed request gets the same answer from "
        "each",
    )
    models: dict[str, ModelPolicy] = Field(
        default_factory=dict,
        description="policy by model name, for the version that the server answers with by default; NAME@VERSION for "
        "another version",
        json_schema_extra={"propertyNames": {"pattern": f"^{MODEL_NAME}$"}},
    )
