"""Models of every data type and layout behind Guard: on a real Triton where it has the type, and embedded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_client
from tritonclient.grpc import service_pb2

from guard.app import Sidecar
from guard.config import Mode, ModelPolicy
from guard.datatypes import held
from guard.offline.calibrate import LEAST_SAMPLES, calibrate
from guard.offline.options import Options
from guard.profile import store
from tests.e2e.peer import Peer
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.sidecars import embedded, running, settings, wait_until
from tests.support.triton import Triton
from tests.support.variants import VARIANTS, Variant

CHOSEN = ("fp16", "bf16", "uint8", "int8", "fp64", "uint8-nhwc")
NUMPY = {"UINT8": np.uint8, "INT8": np.int8, "FP16": np.float16, "FP64": np.float64, "BF16": ml_dtypes.bfloat16}
NOT_ON_TRITON = "bf16"
"""Triton's Python backend, the one in its wheel, has no numpy type for it."""


def asked(variant: Variant, images: np.ndarray) -> triton_client.InferInput:
    """Digits (n, 1, 8, 8) in 0..1 as a client of the variant sends them."""
    values = held(variant.datatype, variant.samples(images)).astype(NUMPY[variant.datatype])
    tensor = triton_client.InferInput("image", list(values.shape), variant.datatype)
    tensor.set_data_from_numpy(values)
    return tensor


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelPolicy]:
    """A calibrated model of each variant."""
    folder, made = tmp_path_factory.mktemp("variants"), {}
    for name in CHOSEN:
        backend = VARIANTS[name].backend(folder / f"{name}.onnx")
        samples = VARIANTS[name].samples(digits.load_data().calibration[0][:LEAST_SAMPLES])
        store.save(calibrate(backend, samples, Options(network=False, occlusion=False)), folder / name)
        backend.close()
        made[name] = ModelPolicy(
            profile=folder / name,
            model=folder / f"{name}.onnx",
            mode=Mode.FLAG,
            false_positive_rate=0.05,
            screening_budget_s=30.0,
        )
    return made


@pytest.fixture(scope="module")
def servers(policies: dict[str, ModelPolicy], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Peer]]:
    """Clients of Guards in front of Triton and of the embedded server, and of both directly."""
    files = {name: policy.model for name, policy in policies.items() if policy.model is not None}
    on_triton = {name: file for name, file in files.items() if name != NOT_ON_TRITON}
    first, *_ = on_triton
    server = Triton(tmp_path_factory.mktemp("triton"), name=first, onnx=on_triton.pop(first), others=on_triton)
    with LoopThread() as loop, ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        addresses = {"triton": server.address, "embedded": stack.enter_context(embedded(loop, files))}
        peers = {name: stack.enter_context(Peer(address)) for name, address in addresses.items()}
        for name, address in addresses.items():
            models = {each: p for each, p in policies.items() if name == "embedded" or each != NOT_ON_TRITON}
            sidecar = stack.enter_context(running(loop, Sidecar(settings(address, models))))
            wait_until(sidecar)
            peers[f"guarded {name}"] = stack.enter_context(Peer(f"127.0.0.1:{sidecar.grpc_port}"))
        yield peers


@pytest.mark.parametrize("server", ["triton", "embedded"])
@pytest.mark.parametrize("name", CHOSEN)
def test_verified_screened_and_answered(servers: dict[str, Peer], server: str, name: str) -> None:
    """The served model is recognised as the profile's, requests are judged, and answers are the server's own."""
    if server == "triton" and name == NOT_ON_TRITON:
        assert not servers[server].client.is_model_ready(name)
        return
    images = digits.load_data().test[0][:16]
    wanted = servers[server].client.infer(name, [asked(VARIANTS[name], images)]).as_numpy("logits")
    got = servers[f"guarded {server}"].client.infer(name, [asked(VARIANTS[name], images)])
    np.testing.assert_array_equal(got.as_numpy("logits"), wanted)
    each = [
        servers[f"guarded {server}"].client.infer(name, [asked(VARIANTS[name], image[None])]).get_response()
        for image in images
    ]
    verdicts = [answer.parameters["guard_verdict"].string_param for answer in each]
    assert verdicts.count("clean") >= 12, verdicts
    assert set(verdicts) <= {"clean", "adversarial"}


@pytest.mark.parametrize("value", [128, 300, -129])
@pytest.mark.parametrize("name", ["int8", "uint8"])
def test_typed_values_out_of_range(servers: dict[str, Peer], name: str, value: int) -> None:
    """Triton keeps the low byte of a typed value that doesn't fit; Guard refuses it, and judges what fits."""
    low, high = (int(bound) for bound in VARIANTS[name].bounds)
    fits, direct, guarded = low <= value <= high, servers["triton"], servers["guarded triton"]

    def ask(peer: Peer, first: int) -> service_pb2.ModelInferResponse:
        values = [first] + [min(high, 3 * place) for place in range(63)]
        asked = service_pb2.ModelInferRequest(model_name=name)
        contents = asked.inputs.add(name="image", datatype=name.upper(), shape=[1, 1, 8, 8]).contents
        (contents.uint_contents if name == "uint8" else contents.int_contents).extend(values)
        return peer.stub.ModelInfer(asked)

    def executed() -> int:
        """How many executions Triton has counted, once it stands still: it answers before it counts."""
        count, since = -1, time.monotonic()
        while time.monotonic() < since + 0.5:
            if (now := direct.client.get_inference_statistics(name).model_stats[0].execution_count) != count:
                count, since = now, time.monotonic()
            time.sleep(0.02)
        return count

    if value < 0 and name == "uint8":
        value += 1 << 32  # the field has no sign
    wrapped = (value - low) % 256 + low
    assert ask(direct, value).raw_output_contents == ask(direct, wrapped).raw_output_contents
    before = executed()
    if fits:
        assert ask(guarded, value).parameters["guard_verdict"].string_param in {"clean", "adversarial"}
        return
    with pytest.raises(grpc.RpcError, match=f"the range of {name.upper()}") as refused:
        ask(guarded, value)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert executed() == before
