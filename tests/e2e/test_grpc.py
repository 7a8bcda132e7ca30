"""What else tritonclient does over gRPC: data types, compression, calls that don't wait; direct and through Guard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_client
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from guard.app import Sidecar
from tests.e2e.cases import Case
from tests.e2e.echo import TEXT, VALUES
from tests.e2e.peer import Peer, Refused, answer, outcome, tensor
from tests.support.digits import DigitsData
from tests.support.triton import Triton

WAIT_S = 60.0
_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Of the protocol's typed contents; there is none for FP16."""


def raw(values: np.ndarray, datatype: str) -> Callable[[Peer, np.ndarray], Any]:
    """Ask for an echo as the stock client does."""
    name = "STRING" if datatype == "BYTES" else datatype
    made = tensor(values, name=name, datatype=datatype)
    wanted = [triton_client.InferRequestedOutput(f"out_{name}")]
    return lambda peer, _: answer(peer.client.infer("echo", [made], outputs=wanted).get_response())


def typed(values: np.ndarray, datatype: str) -> Callable[[Peer, np.ndarray], Any]:
    """Ask for an echo with typed contents."""
    name = "STRING" if datatype == "BYTES" else datatype
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.outputs.add(name=f"out_{name}")
    sent = request.inputs.add(name=name, datatype=datatype, shape=values.shape)
    getattr(sent.contents, _FIELDS[datatype]).extend(values.tolist())
    return lambda peer, _: answer(peer.stub.ModelInfer(request))


def echoed(values: np.ndarray, datatype: str) -> Callable[[Any], bool]:
    """Whether an answer holds the same values, to the bit."""
    content = serialize_byte_tensor(values).item() if datatype == "BYTES" else values.tobytes()
    return lambda got: got["contents"] == [content]


def compressed(how: str) -> Callable[[Peer, np.ndarray], Any]:
    """Ask with a compressed message."""
    return lambda peer, x: answer(peer.infer(tensor(x), compression_algorithm=how))


def called_back(peer: Peer, x: np.ndarray) -> Any:
    """Ask eight times without waiting; the answers come to a callback."""
    calls: list[Future[Any]] = [Future() for _ in range(8)]
    for number, heard in enumerate(calls):

        def hear(result: Any, error: Any, heard: Future[Any] = heard) -> None:
            heard.set_exception(error) if error else heard.set_result(result.get_response())

        peer.client.async_infer("digits", [tensor(x[number : number + 1])], hear, request_id=str(number))
    return [answer(heard.result(WAIT_S)) for heard in calls]


def refused_back(peer: Peer, x: np.ndarray) -> Any:
    """Ask for a model that isn't there, without waiting."""
    heard: Future[Any] = Future()

    def hear(result: Any, error: Any) -> None:
        heard.set_exception(error)

    peer.client.async_infer("digits", [tensor(x)], hear, model_version="9")
    return heard.result(WAIT_S)


CASES = {
    "gzip": Case(compressed("gzip"), lambda got: got["outputs"] == [("logits", "FP32", (8, 10))]),
    "deflate": Case(compressed("deflate"), lambda got: got["outputs"] == [("logits", "FP32", (8, 10))]),
    "callbacks": Case(called_back, lambda got: [each["id"] for each in got] == [str(number) for number in range(8)]),
    "error to a callback": Case(
        refused_back,
        Refused("NOT_FOUND", "Request for unknown model: 'digits' version 9 is not found"),
        Refused("UNAVAILABLE", "the version that the request asks for was not verified"),
    ),
    "priority and time-out": Case(
        lambda p, x: answer(p.infer(tensor(x), priority=1, timeout=5_000_000)), lambda got: len(got["contents"]) == 1
    ),
    "own parameters": Case(
        lambda p, x: answer(p.infer(tensor(x), parameters={"mine": "yes"})), lambda got: len(got["contents"]) == 1
    ),
    "log settings": Case(
        lambda p, _: "log_info" in p.client.get_log_settings(as_json=True)["settings"],
        direct=True,
        guarded=Refused("PERMISSION_DENIED", "guard does not let LogSettings through"),
    ),
}
_EVERY = {**VALUES, "BYTES": TEXT}
CASES |= {f"echo of {name}, raw": Case(raw(values, name), echoed(values, name)) for name, values in _EVERY.items()}
CASES |= {
    f"echo of {name}, typed": Case(typed(_EVERY[name], name), echoed(_EVERY[name], name)) for name in sorted(_FIELDS)
}


@pytest.fixture(scope="module")
def through_guard(echo_guard: Sidecar) -> Iterator[Peer]:
    """A client of Guard in front of the Triton with the echo."""
    with Peer(f"127.0.0.1:{echo_guard.grpc_port}") as peer:
        yield peer


@pytest.fixture(scope="module")
def direct(echoing: Triton) -> Iterator[Peer]:
    """A client of that Triton."""
    with Peer(echoing.address) as peer:
        yield peer


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_direct(direct: Peer, digits_data: DigitsData, case: Case) -> None:
    """The real Triton does what the table says, so that the table is worth comparing with."""
    case.check_direct(outcome(case.ask, direct, digits_data.test[0][:8]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_through_guard(direct: Peer, through_guard: Peer, benign: np.ndarray, case: Case) -> None:
    """Through Guard the outcome is the same, errors included, but where the table says that Guard answers first."""
    case.check_guarded(outcome(case.ask, through_guard, benign), lambda: outcome(case.ask, direct, benign))


async def test_asyncio(echoing: Triton, echo_guard: Sidecar, benign: np.ndarray) -> None:
    """The stock client for asyncio sees the same as from Triton, many requests at a time."""
    seen = []
    for address in (echoing.address, f"127.0.0.1:{echo_guard.grpc_port}"):
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(*(client.infer("digits", [tensor(benign[n : n + 1])]) for n in range(8)))
            with pytest.raises(InferenceServerException, match="unknown model") as error:
                await client.get_model_metadata("nobody")
            seen.append((np.concatenate([r.as_numpy("logits") for r in results]).tolist(), error.value.status()))
    assert seen[0] == seen[1]
