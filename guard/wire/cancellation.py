"""Whether a client's cancellation or expired deadline may reach the upstream: some servers crash on them."""

from __future__ import annotations

import asyncio

import grpc
from google.protobuf.message import DecodeError

from guard.channel import AioChannel
from guard.config import Cancellation
from guard.pb.grpc_service_pb2 import ServerMetadataRequest, ServerMetadataResponse

SERVER_METADATA = "/inference.GRPCInferenceService/ServerMetadata"

_LOOKUP_TIMEOUT_S = 5.0
# Triton 2.51 and older die of a storm of cancellations, and newer versions haven't been tried: none is listed.
_SURVIVORS = frozenset({"guard-embedded", "kserve", "mlserver"})


class CancellationPolicy:
    """Answers, for each call, whether its deadline and cancellation are passed on.

    With `auto` the upstream is asked once for each connection who it is, in the background of a call: until the
    answer is there, and where there is none, calls are shielded.
    """

    def __init__(self, policy: Cancellation, channel: AioChannel) -> None:
        self._policy = policy
        self._channel = channel
        self._survives: bool | None = None
        self._lookup: asyncio.Task[None] | None = None

    def passes_on(self) -> bool:
        """Whether the call that is about to be made may be cancelled at the upstream."""
        if self._policy is not Cancellation.AUTO:
            return self._policy is Cancellation.ALWAYS
        if self._channel.get_state() is not grpc.ChannelConnectivity.READY:
            self._survives = None  # whoever answers the next connection may be another version
        if self._survives is None and (self._lookup is None or self._lookup.done()):
            self._lookup = asyncio.create_task(self._ask())
        return self._survives is True

    async def close(self) -> None:
        """Stop asking."""
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.wait({self._lookup})

    async def _ask(self) -> None:
        request = ServerMetadataRequest().SerializeToString()
        try:
            answer = await self._channel.unary_unary(SERVER_METADATA)(request, timeout=_LOOKUP_TIMEOUT_S)
            self._survives = ServerMetadataResponse.FromString(answer).name in _SURVIVORS
        except (grpc.aio.AioRpcError, DecodeError):
            self._survives = None  # the next call asks again
