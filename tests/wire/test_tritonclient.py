"""The stock Triton client, unchanged, through a guard."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.values import Action, Verdict
from tests.wire.parts import Decide, RecordingUpstream, Serve

Infer = Callable[[str, np.ndarray], Awaitable[triton.InferResult]]

EIGHT = (Verdict.CLEAN,) * 3 + (Verdict.ADVERSARIAL,) + (Verdict.CLEAN,) * 4


class TestTritonClient:
    """The stock client, unchanged."""

    @pytest.fixture
    def infer(self) -> Infer:
        """Send a float batch with tritonclient, in a thread of its own."""

        def send(address: str, values: np.ndarray) -> triton.InferResult:
            tensor = triton.InferInput("image", list(values.shape), "FP32")
            tensor.set_data_from_numpy(values)
            with triton.InferenceServerClient(address) as client:
                return client.infer("digits", [tensor], parameters={"guard_verdict": "forged", "kept": 1})

        return lambda address, values: asyncio.to_thread(send, address, values)

    async def test_infer(self, serve: Serve, upstream: RecordingUpstream, infer: Infer) -> None:
        """Its request arrives as sent, but for forged parameters, and it can read the verdict."""
        values = np.arange(8, dtype=np.float32).reshape(8, 1)
        result = await infer((await serve()).address, values)
        assert result.get_response().parameters["guard_verdict"].string_param == "clean"
        sent = ModelInferRequest.FromString(upstream.inferred()[0].message)
        assert sent.raw_input_contents == [values.tobytes()]
        assert list(sent.parameters) == ["kept"]

    async def test_reject(self, serve: Serve, decide: Decide, infer: Infer) -> None:
        """It shows code and message of a rejection, which hold the verdict, the id and the item."""
        guard = await serve(decide(Verdict.ADVERSARIAL, Action.REJECT, items=EIGHT))
        with pytest.raises(InferenceServerException) as error:
            await infer(guard.address, np.zeros((8, 1), np.float32))
        assert error.value.status() == "StatusCode.PERMISSION_DENIED"
        assert "item 3 of 8 [guard_verdict=adversarial guard_id=d-1 guard_items=3]" in error.value.message()

    async def test_control_plane(self, serve: Serve, upstream: RecordingUpstream) -> None:
        """Its health and metadata calls pass; its repository control is denied."""
        upstream.server_name = "triton"
        guard = await serve()

        def ask() -> tuple[bool, str, str]:
            with triton.InferenceServerClient(guard.address) as client:
                name = client.get_server_metadata().name
                with pytest.raises(InferenceServerException) as error:
                    client.unload_model("digits")
                return client.is_server_live(), name, error.value.status()

        upstream.body = b"\x08\x01"  # live
        assert await asyncio.to_thread(ask) == (True, "triton", "StatusCode.PERMISSION_DENIED")
