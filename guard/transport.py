"""Settings of the two hops: certificates, who may open a socket, compression, and the secret of a restricted upstream.

They are below the settings, of which they are sections.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Compression(StrEnum):
    """How requests to the upstream are compressed."""

    NONE = "none"
    GZIP = "gzip"
    DEFLATE = "deflate"


class SocketAccess(StrEnum):
    """Whose processes may open a Unix socket."""

    OWNER = "owner"
    GROUP = "group"
    EVERYONE = "everyone"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ListenTls(_Section):
    """The certificate that Guard shows, and those that it asks for. The files may be replaced while Guard runs."""

    certificate_file: Path = Field(
        description="PEM file of Guard's certificate, followed by those between it and its authority"
    )
    key_file: Path = Field(description="PEM file of the certificate's key, without a password")
    client_ca_file: Path | None = Field(
        None,
        description="PEM file of who signs clients' certificates: with it, clients without such a certificate are "
        "refused, and the others are told apart by it",
    )


class UpstreamTls(_Section):
    """What the upstream has to prove, and what it is shown. The files may be replaced while Guard runs."""

    ca_file: Path | None = Field(
        None, description="PEM file of who signed the upstream's certificate; without it the authorities gRPC knows"
    )
    certificate_file: Path | None = Field(
        None, description="PEM file of the certificate to show, where the upstream asks for one"
    )
    key_file: Path | None = Field(None, description="PEM file of that certificate's key, without a password")
    server_name: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="name in the upstream's certificate, where it is not the host of upstream.address"
    )


class RestrictedProtocol(_Section):
    """The secret without which the upstream refuses calls."""

    key: Annotated[str, Field(pattern=r"^[a-z0-9_.-]+$")] = Field(
        description="key of Triton's --grpc-restricted-protocol=...:KEY=SECRET, in lower case"
    )
    value_file: Path = Field(description="file with its SECRET, which may be replaced while Guard runs")
