"""Whether a model is decoupled: answers a request as often as it likes. Only its configuration says so.

A server that doesn't tell configurations is none of Triton's kind, and has streams of its own, if any. MLServer's are
of bare answers, without a place for errors, and go to the one model that their first request names.
"""

from __future__ import annotations

import asyncio
import math
import time

import grpc
from google.protobuf.message import DecodeError

from guard.errors import GuardError, MalformedRequest
from guard.pb.grpc_service_pb2 import ModelConfigRequest, ModelConfigResponse
from guard.wire.status import Metadata
from guard.wire.stream_messages import Asked
from guard.wire.upstream import Call, Upstream

MODEL_CONFIG = "/inference.GRPCInferenceService/ModelConfig"
MAX_REMEMBERED = 256
"""Models of one stream. Where the policy lets any model pass, clients may invent names."""

_TIMEOUT_S = 5.0
_AGAIN_S = 10.0
"""So long after the upstream did not tell it is asked again; the next time after twice as long, and so on."""
_now_s = time.monotonic
_TRITONS_WORDS = frozenset(
    {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL}
)
"""What a server says that knows the call: of a model, of one that isn't there."""


class TransactionPolicies:
    """What the upstream says of the models that one stream asks for.

    Each is looked up once, and now and then again while the upstream, too busy or unwilling, has not told.
    """

    def __init__(self, upstream: Upstream, metadata: Metadata, client: str) -> None:
        self._upstream = upstream
        self._metadata = metadata
        self._client = client
        self._lookups: dict[str, asyncio.Task[bool]] = {}
        self._again_s = math.inf
        self._patience_s = _AGAIN_S
        self._foreign = False
        self._triton = False
        self._first: tuple[str, str] | None = None

    def of(self, model: str) -> asyncio.Task[bool]:
        """Whether a model is decoupled. One that the upstream doesn't tell about is taken for a plain one."""
        if _now_s() >= self._again_s:
            self._again_s = math.inf
            self._lookups.clear()
        if model not in self._lookups:
            if len(self._lookups) >= MAX_REMEMBERED:
                self._lookups.pop(next(iter(self._lookups)))
            self._lookups[model] = asyncio.create_task(self._ask(model))
        return self._lookups[model]

    async def foreign(self) -> bool:
        """Whether the upstream is of another kind than Triton."""
        await asyncio.wait(self._lookups.values() or {self.of("")})
        return self._foreign

    def check(self, request: Asked) -> None:
        """Check a request that is about to be forwarded, once its model was looked up.

        Raises:
            MalformedRequest: the upstream would take it for one to the model that the stream's first request named.
        """
        asked_for = request.model, request.version
        self._first = self._first or asked_for
        if not self._triton and asked_for != self._first:
            takes = "takes" if self._foreign else "did not say what it is, and may take"
            raise MalformedRequest(
                f"the first request of this stream is for model {self._first[0]!r}, version {self._first[1]!r}: the "
                f"upstream {takes} all that follow for requests to that one; open another stream for another model"
            )

    def close(self) -> None:
        """Stop asking."""
        for lookup in self._lookups.values():
            lookup.cancel()

    async def _ask(self, model: str) -> bool:
        request, told = ModelConfigRequest(name=model).SerializeToString(), False
        try:
            call = Call(MODEL_CONFIG, request, self._metadata, _TIMEOUT_S, client=self._client)
            reply = await self._upstream.call(call)
            self._foreign |= reply.code is grpc.StatusCode.UNIMPLEMENTED
            self._triton |= reply.code in _TRITONS_WORDS
            told = reply.code in _TRITONS_WORDS or reply.code is grpc.StatusCode.UNIMPLEMENTED
            if reply.code is not grpc.StatusCode.OK:
                return False
            return ModelConfigResponse.FromString(reply.body).config.model_transaction_policy.decoupled
        except (GuardError, DecodeError):
            return False
        finally:
            if not told and self._again_s == math.inf:
                self._again_s = _now_s() + self._patience_s
                self._patience_s *= 2
