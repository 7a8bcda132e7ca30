"""Settings of what is kept for people, in the audit log and the console, and what is counted of it.

They are below the settings, of which they are sections, and the metrics, whose labels are its closed sets.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

VOLUME_SHARE: Final = 0.8
"""How much of the volume the log and captured inputs take at most: who fills an `emptyDir` is evicted."""

LEAST_SEGMENTS: Final = 2
"""What the log needs: a file that is written, and one before it."""

MIN_KEY_BYTES: Final = 16
CAPTURE_KEY_BYTES: Final = 32
"""AES-256."""

_KIBIBYTE = 1024
_MEBIBYTE = 1024 * _KIBIBYTE
_DAY_S = 86_400.0

Seconds: TypeAlias = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, strict=True)]


class Sink(StrEnum):
    """Where evidence goes. A closed set: it labels a metric."""

    LOG = "log"
    CAPTURES = "captures"


class Outcome(StrEnum):
    """What became of a piece of evidence. A closed set: it labels a metric."""

    WRITTEN = "written"
    SAMPLED_OUT = "sampled_out"
    DROPPED = "dropped"
    FAILED = "failed"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Captures(_Section):
    """Inputs that are kept, encrypted, beside the records of requests that were not simply let through."""

    key_file: Path | None = Field(
        None,
        description="file of 32 random bytes that inputs are encrypted with (AES-256-GCM); without it no input is kept",
    )
    ttl_s: Seconds = Field(7 * _DAY_S, description="how long an input is kept, in seconds")
    max_bytes: int = Field(
        256 * _MEBIBYTE,
        ge=64 * _KIBIBYTE,
        strict=True,
        description="bytes of all inputs that are kept; the oldest goes first",
    )


class Audit(_Section):
    """What Guard keeps for those who look into an incident."""

    folder: Path | None = Field(
        None, description="folder of the audit log, for one Guard alone; without it there is no log"
    )
    pseudonym_key_file: Path | None = Field(
        None,
        description="file of 16 random bytes or more that clients' pseudonyms are made with, the same for all "
        "replicas; needed with folder. Each record names the key",
    )
    peers: bool = Field(
        default=True, strict=True, description="record the address that a request came from beside its pseudonym"
    )
    forwards: Share = Field(0.001, description="share of requests screened and let through that is recorded")
    flags_per_s: float = Field(
        10.0,
        ge=0,
        strict=True,
        allow_inf_nan=False,
        description="requests a second, neither simply let through nor rejected, that are all recorded; rejected ones "
        "always are",
    )
    flags_beyond: Share = Field(0.01, description="share of those beyond flags_per_s that is recorded")
    volume_bytes: int = Field(
        1024 * _MEBIBYTE,
        ge=_MEBIBYTE,
        strict=True,
        description="size limit of the volume that folder is on, of which at most 80 % are used",
    )
    segment_bytes: int = Field(
        16 * _MEBIBYTE, ge=64 * _KIBIBYTE, strict=True, description="size at which a file of the log is closed"
    )
    retention_s: Seconds = Field(30 * _DAY_S, description="how long records are kept, in seconds")
    max_queued_events: Annotated[int, Field(ge=1, strict=True)] = Field(
        1024, description="records that wait to be written, over which they are dropped and counted"
    )
    max_queued_bytes: Annotated[int, Field(ge=1, strict=True)] = Field(
        64 * _MEBIBYTE, description="bytes of tensors that records wait with, over which they are dropped and counted"
    )
    captures: Captures = Field(Captures(), description="inputs that are kept, encrypted; off without a key")

    @property
    def room_bytes(self) -> int:
        """What the log and captured inputs may take together: their share of the volume."""
        return int(self.volume_bytes * VOLUME_SHARE)

    @property
    def reserved_bytes(self) -> int:
        """What is left to captured inputs, also while they take less; nothing where none is kept."""
        return self.captures.max_bytes if self.captures.key_file is not None else 0

    @property
    def captured_bytes(self) -> int:
        """What captured inputs may take. Those of an earlier policy may take what the log does not need."""
        return self.reserved_bytes or max(0, self.room_bytes - LEAST_SEGMENTS * self.segment_bytes)

    @property
    def log_bytes(self) -> int:
        """What the log may take where no other inputs are captured than the settings say."""
        return self.room_bytes - self.reserved_bytes


class Console(_Section):
    """A web page for people, at /console on the admin port."""

    enabled: bool = Field(
        default=False,
        strict=True,
        description="show /console on the admin port: live rates, p-values, engines, and the latest flagged inputs",
    )
    token_file: Path | None = Field(
        None,
        description="file with the token that the console asks for, 16 characters or more on one line, which may be "
        "replaced while Guard runs; needed where listen.admin_address is not on loopback",
    )
    keep: Annotated[int, Field(ge=1, le=1000, strict=True)] = Field(
        50, description="flagged requests that are kept in memory for it, each with a thumbnail of one input"
    )
