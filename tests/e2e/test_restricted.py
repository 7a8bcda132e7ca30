"""A real Triton with a restricted protocol: it serves who comes through Guard, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from guard.config import Mode, ModelPolicy, Upstream
from guard.transport import RestrictedProtocol
from tests.e2e.peer import Peer, Refused, outcome, tensor
from tests.support.digits import DigitsData
from tests.support.sidecars import serving, settings
from tests.support.triton import Triton

KEY, SECRET = "guard-key", "open sesame"
PROTOCOLS = "health,metadata,inference,shared-memory,model-config,model-repository,statistics,trace,logging"
HEADER = f"triton-grpc-protocol-{KEY}"
RESTRICTED = Refused("UNAVAILABLE", f"This protocol is restricted, expecting header '{HEADER}'")


@pytest.fixture(scope="module")
def restricted(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A Triton that wants to hear the secret for everything."""
    server = Triton(
        tmp_path_factory.mktemp("restricted"),
        name="digits",
        onnx=digits_onnx,
        options={"grpc-restricted-protocol": f"{PROTOCOLS}:{KEY}={SECRET}"},
        metadata=((HEADER, SECRET),),
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guarded(
    restricted: Triton, profile: Path, digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    """A stock client of a Guard that knows the secret, and asks the server itself when it screens."""
    secret = tmp_path_factory.mktemp("secret") / "value"
    secret.write_text(SECRET + "\n")
    upstream = Upstream(address=restricted.address, restricted_protocol=RestrictedProtocol(key=KEY, value_file=secret))
    policy = ModelPolicy(profile=profile, model=digits_onnx, mode=Mode.FLAG, screening_budget_s=30.0)
    chosen = settings(restricted.address, {"digits": policy}, upstream=upstream)
    with serving(chosen) as sidecar, Peer(f"127.0.0.1:{sidecar.grpc_port}") as peer:  # the verifier has the secret too
        yield peer


def metadata_of(peer: Peer, _x: np.ndarray) -> Any:
    """What kind of server answers."""
    return peer.client.get_server_metadata().name


def stream(peer: Peer, x: np.ndarray) -> Any:
    """One request on a stream."""
    request = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=x.shape)
    (answer,) = peer.stub.ModelStreamInfer(iter([request]))
    return answer.infer_response.model_name


CASES = {
    "infer": lambda peer, x: peer.infer(tensor(x)).model_name,
    "ready": lambda peer, _: peer.client.is_model_ready("digits"),
    "metadata": metadata_of,
    "statistics": lambda peer, _: len(peer.client.get_inference_statistics("digits").model_stats),
    "forged": lambda peer, x: peer.infer(tensor(x), headers={HEADER: "guess"}).model_name,
    "stream": stream,
}
EXPECTED = {
    "infer": "digits",
    "ready": True,
    "metadata": "triton",
    "statistics": 1,
    "forged": "digits",
    "stream": "digits",
}


@pytest.mark.parametrize("case", CASES)
def test_only_through_guard(restricted: Triton, guarded: Peer, digits_data: DigitsData, case: str) -> None:
    """What Triton refuses to who asks directly, it answers through Guard, whatever header the client sends."""
    x = digits_data.test[0][:8]
    with Peer(restricted.address) as direct:
        refused = outcome(CASES[case], direct, x)
    assert isinstance(refused, Refused)
    assert refused.code == "UNAVAILABLE"
    assert RESTRICTED.message in refused.message
    assert outcome(CASES[case], guarded, x) == EXPECTED[case]
