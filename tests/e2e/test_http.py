"""The same unchanged clients against a real Triton's HTTP port, direct and through Guard."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_client
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from guard.app import Sidecar
from tests.e2e.cases import Case
from tests.e2e.echo import TEXT, TYPES, VALUES
from tests.e2e.http_peer import HttpPeer, answer, error_of, outcome, plain, tensor, wait_until_listening
from tests.e2e.peer import Refused
from tests.support.digits import DigitsData
from tests.support.triton import MAX_BATCH_SIZE, Triton
from tests.support.waiting import PATIENCE_S


def echo(values: np.ndarray, datatype: str, *, binary: bool, back: bool) -> Callable[[HttpPeer, np.ndarray], Any]:
    """Ask for an echo, sent in binary or not, and wanted back in binary or not."""
    name = "STRING" if datatype == "BYTES" else datatype
    wanted = triton_client.InferRequestedOutput(f"out_{name}", binary_data=back)
    made = tensor(values, name=name, datatype=datatype, binary=binary)
    return lambda peer, _: peer.infer(made, model="echo", outputs=[wanted])


def echoed(values: np.ndarray) -> Callable[[Any], bool]:
    """Whether an answer holds the same values."""
    return lambda got: np.array_equal(got["values"][0], values.tolist(), equal_nan=values.dtype.kind == "f")


def posted(
    document: dict[str, Any] | bytes, behind: bytes = b"", **headers: str
) -> Callable[[HttpPeer, np.ndarray], Any]:
    """Post a body to the digits model."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {"Inference_Header_Content_Length": str(len(text))} if behind else {}
    return lambda peer, _: peer.raw("POST", "/v2/models/digits/infer", text + behind, **(named | headers))


def nested(peer: HttpPeer, x: np.ndarray) -> dict[str, Any]:
    """Ask with nested arrays."""
    document = {"inputs": [HEAD | {"shape": list(x.shape), "data": x.tolist()}], "id": "n"}
    return plain(posted(document)(peer, x))


def bare(peer: HttpPeer, x: np.ndarray) -> dict[str, Any]:
    """Send nothing but a digit."""
    return plain(peer.raw("POST", "/v2/models/digits/infer", x[:1].tobytes(), Inference_Header_Content_Length="0"))


def strings(peer: HttpPeer, _: np.ndarray) -> dict[str, Any]:
    """Send text as JSON, by hand."""
    text = {"inputs": [{"name": "STRING", "datatype": "BYTES", "shape": [2], "data": ["é", ""]}]}
    return plain(peer.raw("POST", "/v2/models/echo/infer", json.dumps(text).encode()))


def statistics(peer: HttpPeer, x: np.ndarray) -> tuple[list[str], str, int]:
    """What a batch of eight adds to the statistics of the model."""

    def counted() -> Any:
        return peer.client.get_inference_statistics("digits")["model_stats"][0]

    before = counted()
    peer.infer(tensor(x))
    deadline = time.monotonic() + PATIENCE_S
    while (after := counted())["inference_count"] == before["inference_count"] and time.monotonic() < deadline:
        pass  # Triton answers first and counts then
    return sorted(after), after["name"], after["inference_count"] - before["inference_count"]


def logits(items: int) -> Callable[[Any], bool]:
    """Whether an answer holds the logits of so many items."""
    return lambda got: got["outputs"][0]["name"] == "logits" and np.shape(got["values"][0]) == (items, 10)


HEAD = {"name": "input", "datatype": "FP32"}


def output(*, binary: bool = True, classes: int = 0, name: str = "logits") -> list[Any]:
    """The output that is asked for."""
    return [triton_client.InferRequestedOutput(name, binary_data=binary, class_count=classes)]


def refused(status: int, message: str) -> Refused:
    """An error, of which a part is given."""
    return Refused(str(status), message)


def compressed(how: str) -> Case:
    """A request and an answer that are compressed."""
    options = {"request_compression_algorithm": how, "response_compression_algorithm": how}
    return Case(lambda p, x: p.infer(tensor(x[:1]), **options), logits(1))


def form(*, sent: bool, wanted: bool) -> Callable[[HttpPeer, np.ndarray], Any]:
    """A batch that is sent in binary or not, and whose answer is wanted so or not."""
    return lambda p, x: p.infer(tensor(x, binary=sent), outputs=output(binary=wanted))


NOT_FOUND = refused(404, "Request for unknown model: 'nobody' is not found")
BARE = {"Inference_Header_Content_Length": "0"}
CASES = {
    "server live": Case(lambda p, _: p.client.is_server_live(), direct=True),
    "server ready": Case(lambda p, _: p.client.is_server_ready(), direct=True),
    "health": Case(lambda p, _: p.raw("GET", "/v2/health/live")[::2], (200, b"")),
    "server metadata": Case(
        lambda p, _: p.client.get_server_metadata(),
        lambda got: (got["name"], got["version"]) == ("triton", "2.51.0") and "binary_tensor_data" in got["extensions"],
    ),
    "model ready": Case(lambda p, _: p.client.is_model_ready("digits"), direct=True),
    "version ready": Case(lambda p, _: p.client.is_model_ready("digits", "1"), direct=True),
    "unknown model ready": Case(lambda p, _: p.client.is_model_ready("nobody"), direct=False),
    "model metadata": Case(
        lambda p, _: p.client.get_model_metadata("digits"),
        {
            "name": "digits",
            "versions": ["1"],
            "platform": "python",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        },
    ),
    "unknown model metadata": Case(lambda p, _: p.client.get_model_metadata("nobody"), NOT_FOUND),
    "model config": Case(
        lambda p, _: p.client.get_model_config("digits"),
        lambda got: (got["name"], got["max_batch_size"]) == ("digits", MAX_BATCH_SIZE),
    ),
    "another config": Case(lambda p, _: p.client.get_model_config("echo"), lambda got: len(got["input"]) == len(TYPES)),
    "statistics": Case(statistics, lambda got: got[1:] == ("digits", 8)),
    "all statistics": Case(
        lambda p, _: [model["name"] for model in p.client.get_inference_statistics()["model_stats"]], ["digits", "echo"]
    ),
    "unknown model statistics": Case(
        lambda p, _: p.client.get_inference_statistics("nobody"), refused(400, "requested model 'nobody' is not avail")
    ),
    "repository index": Case(
        lambda p, _: p.client.get_model_repository_index(),
        [{"name": name, "version": "1", "state": "READY"} for name in ("digits", "echo")],
    ),
    "index of what is ready": Case(
        lambda p, _: p.raw("POST", "/v2/repository/index", b'{"ready":true}')[::2], lambda got: got[0] == 200
    ),
    "infer 1": Case(lambda p, x: p.infer(tensor(x[:1])), logits(1)),
    "infer 8": Case(lambda p, x: p.infer(tensor(x)), logits(8)),
    "JSON in": Case(form(sent=False, wanted=True), logits(8)),
    "JSON out": Case(form(sent=True, wanted=False), logits(8)),
    "JSON both ways": Case(form(sent=False, wanted=False), logits(8)),
    "nested": Case(nested, lambda got: len(got["json"]["outputs"][0]["data"]) == 80 and got["json"]["id"] == "n"),
    "bare tensor": Case(bare, lambda got: len(got["behind"]) == 2 * 40),
    "strings by hand": Case(strings, lambda got: got["json"]["outputs"][0]["data"] == ["é", ""]),
    "request id": Case(lambda p, x: p.infer(tensor(x), request_id="a-7"), lambda got: got["id"] == "a-7"),
    "model version": Case(lambda p, x: p.infer(tensor(x), model_version="1"), lambda got: got["model_version"] == "1"),
    "unknown version": Case(
        lambda p, x: p.infer(tensor(x), model_version="9"),
        refused(404, "Request for unknown model: 'digits' version 9 is not found"),
        refused(503, "not verified against its profile"),
    ),
    "parameters": Case(
        lambda p, x: p.infer(
            tensor(x), parameters={"a": 1, "b": "c", "d": True}, timeout=5_000_000, priority=1, sequence_id=5
        ),
        logits(8),
    ),
    "classification": Case(
        lambda p, x: p.infer(tensor(x), outputs=output(classes=2)), lambda got: np.shape(got["values"][0]) == (8, 2)
    ),
    "classification as JSON": Case(
        lambda p, x: p.infer(tensor(x), outputs=output(classes=2, binary=False)),
        lambda got: len(got["outputs"][0]["data"]) == 16,
    ),
    "gzip": compressed("gzip"),
    "deflate": compressed("deflate"),
    "in a greenlet": Case(lambda p, x: answer(p.client.async_infer("digits", [tensor(x)]).get_result()), logits(8)),
    "unknown output": Case(
        lambda p, x: p.infer(tensor(x), outputs=output(name="nope")),
        refused(400, "unexpected inference output 'nope' for model 'digits'"),
    ),
    "unknown model": Case(lambda p, x: p.infer(tensor(x), model="nobody"), NOT_FOUND),
    "wrong data type": Case(
        lambda p, x: p.infer(tensor(x.astype(np.float64), datatype="FP64")),
        refused(400, "inference input 'input' data-type is 'FP64', but model 'digits' expects 'FP32'"),
        refused(400, "input 'input' of model 'digits' must be FP32, the request says FP64"),
    ),
    "wrong shape": Case(
        lambda p, x: p.infer(tensor(x.reshape(8, 64))),
        refused(400, "unexpected shape for input 'input' for model 'digits'. Expected [-1,1,8,8], got [8,64]"),
        refused(400, "input 'input' of model 'digits' must have shape [n, 1, 8, 8], the request says [8, 64]"),
    ),
    "NaN": Case(
        lambda p, x: p.infer(tensor(np.full_like(x[:1], np.nan))),
        logits(1),
        refused(400, "NaN, infinity or a value beyond float32 at item 0 of 1"),
    ),
    "too few values": Case(
        lambda p, x: error_of(posted({"inputs": [HEAD | {"shape": [1, 1, 8, 8], "data": [1.0]}]})(p, x)),
        refused(500, "Shape does not match true shape of 'data' field"),
        refused(400, "input 'input' of shape [1, 1, 8, 8] takes 64 values, its data has 1"),
    ),
    "too few bytes": Case(
        lambda p, _: error_of(p.raw("POST", "/v2/models/digits/infer", b"123", **BARE)),
        refused(400, "input byte size mismatch for input 'raw_input' for model 'digits'. Expected 256, got 3"),
        refused(400, "input 'input' of shape [1, 1, 8, 8] takes 256 bytes as FP32, its raw contents have 3"),
    ),
    "no JSON": Case(
        lambda p, x: error_of(posted(b"nonsense")(p, x)),
        refused(500, "failed to parse the request JSON buffer"),
        refused(400, "the request is not JSON"),
    ),
    "FP16 as JSON": Case(
        echo(VALUES["FP16"], "FP16", binary=True, back=False),
        refused(400, "sending FP16 data via JSON is not supported"),
        refused(400, "output 'out_FP16' is FP16, which JSON has no form for"),
    ),
    "unknown coding": Case(lambda p, x: posted(b"{}", Content_Encoding="br")(p, x)[0], 501),
    "unknown path": Case(lambda p, _: p.raw("GET", "/v2/nothing")[0], 404),
    "wrong method": Case(lambda p, _: p.raw("GET", "/v2/models/digits/infer")[0], 405),
    "model control": Case(
        lambda p, _: p.client.load_model("digits"),
        refused(503, "explicit model load / unload is not allowed"),
        refused(403, "guard does not let /v2/repository/models/digits/load through"),
    ),
    "shared memory": Case(
        lambda p, _: p.client.get_system_shared_memory_status(),
        [],
        refused(403, "guard does not let /v2/systemsharedmemory/status through"),
    ),
    "trace settings": Case(
        lambda p, _: "trace_level" in p.client.get_trace_settings(),
        direct=True,
        guarded=refused(403, "guard does not let /v2/trace/setting through"),
    ),
    "log settings": Case(
        lambda p, _: "log_info" in p.client.get_log_settings(),
        direct=True,
        guarded=refused(403, "guard does not let /v2/logging through"),
    ),
}
CASES |= {
    f"echo of {name}, {'binary' if sent else 'JSON'} to {'binary' if back else 'JSON'}": Case(
        echo(values, name, binary=sent, back=back), echoed(values)
    )
    for name, values in VALUES.items()
    for sent in (True, False)
    for back in (True, False)
    if name != "FP16" or (sent and back)
}
CASES |= {
    f"echo of text, {'binary' if sent else 'JSON'} to {'binary' if back else 'JSON'}": Case(
        echo(TEXT, "BYTES", binary=sent, back=back),
        lambda got: [str(v, "utf-8") if isinstance(v, bytes) else v for v in got["values"][0]] == ["café", "", "a,b"],
    )
    for sent in (True, False)
    for back in (True, False)
}


@pytest.fixture(scope="module")
def through_guard(echo_guard: Sidecar) -> Iterator[HttpPeer]:
    """A client of Guard's HTTP port, in front of that Triton."""
    with HttpPeer(f"127.0.0.1:{echo_guard.http_port}") as peer:
        yield peer


@pytest.fixture(scope="module")
def direct(echoing: Triton) -> Iterator[HttpPeer]:
    """A client of that Triton's HTTP port."""
    wait_until_listening(echoing.http_address)
    with HttpPeer(echoing.http_address) as peer:
        yield peer


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_direct(direct: HttpPeer, digits_data: DigitsData, case: Case) -> None:
    """The real Triton does what the table says, so that the table is worth comparing with."""
    case.check_direct(outcome(case.ask, direct, digits_data.test[0][:8]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_through_guard(direct: HttpPeer, through_guard: HttpPeer, benign: np.ndarray, case: Case) -> None:
    """Through Guard the outcome is the same, errors included, but where the table says that Guard answers first."""
    case.check_guarded(outcome(case.ask, through_guard, benign), lambda: outcome(case.ask, direct, benign))


async def test_asyncio(echoing: Triton, through_guard: HttpPeer, benign: np.ndarray) -> None:
    """The stock client for asyncio sees the same as from Triton, many requests at a time."""
    seen = []
    for address in (echoing.http_address, through_guard.address):
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(*(client.infer("digits", [tensor(benign[n : n + 1])]) for n in range(8)))
            with pytest.raises(InferenceServerException, match="unknown model") as error:
                await client.get_model_metadata("nobody")
            seen.append((np.concatenate([r.as_numpy("logits") for r in results]).tolist(), error.value.status()))
    assert seen[0] == seen[1]


def test_verdict(through_guard: HttpPeer, benign: np.ndarray, adversarial: np.ndarray) -> None:
    """The stock client can read the verdict: in the answer's parameters, or in the message of a rejection."""
    result = through_guard.client.infer("digits", [tensor(benign[:1])]).get_response()
    assert result["parameters"]["guard_verdict"] == "clean"
    messages = [outcome(lambda p, x: p.infer(tensor(x)), through_guard, image[None]) for image in adversarial]
    rejected = [message for message in messages if isinstance(message, Refused)]
    assert len(rejected) > len(messages) / 2
    assert {message.code for message in rejected} == {"403"}
    assert all("[guard_verdict=adversarial guard_id=" in message.message for message in rejected)
