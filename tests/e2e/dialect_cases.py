"""What clients ask MLServer and KServe's Python server over gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton_client
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2

from tests.e2e.cases import Case
from tests.e2e.peer import Peer, Refused, tensor


def asked(x: np.ndarray, *, typed: bool = False, **parameters: str) -> service_pb2.ModelInferRequest:
    """A request for digits, raw unless they are wanted typed, its input with parameters."""
    request = service_pb2.ModelInferRequest(model_name="digits")
    made = request.inputs.add(name="input", datatype="FP32", shape=x.shape)
    for name, value in parameters.items():
        made.parameters[name].string_param = value
    if typed:
        made.contents.fp32_contents.extend(x.ravel())
    else:
        request.raw_input_contents.append(x.tobytes())
    return request


def whole(response: Any) -> dict[str, Any]:
    """All that an answer says, without what Guard adds to it."""
    copy = type(response)()
    copy.CopyFrom(response)
    for name in [name for name in copy.parameters if name.startswith("guard_")]:
        del copy.parameters[name]
    return {"raw": list(copy.raw_output_contents)} | MessageToDict(copy)


def sent(**options: Any) -> Callable[[Peer, np.ndarray], Any]:
    """Ask with the stock client."""
    return lambda peer, x: whole(peer.infer(tensor(x), **options))


def by_hand(**options: Any) -> Callable[[Peer, np.ndarray], Any]:
    """Ask by the bare protocol."""
    return lambda peer, x: whole(peer.stub.ModelInfer(asked(x, **options)))


def told(says: Callable[[Peer], Any]) -> Callable[[Peer, np.ndarray], Any]:
    """Ask for something that needs no digits."""
    return lambda peer, _: says(peer)


def not_a_number(peer: Peer, x: np.ndarray) -> dict[str, Any]:
    """Ask what no digit is."""
    return whole(peer.infer(tensor(np.full_like(x[:1], np.nan))))


def on_stream(peer: Peer, x: np.ndarray) -> Any:
    """Ask on a stream, and again where Guard says so: gRPC may lose what a server says that ends one at once."""
    for _ in range(20):
        try:
            return list(peer.stub.ModelStreamInfer(iter([asked(x)])))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
    return None


def logits(items: int) -> Callable[[Any], bool]:
    """Whether an answer holds the logits of so many items."""
    return lambda got: len(got["raw"][0]) == items * 40 and got["outputs"][0]["shape"] == [str(items), "10"]


def missing(method: str) -> Case:
    """A call that these servers don't have: the status and the words are theirs."""
    return Case(told(lambda peer: getattr(peer.client, method)()), Refused("UNIMPLEMENTED", "Method not found!"))


def refused(ask: Callable[[Peer, np.ndarray], Any], direct: Any, says: str, code: str = "INVALID_ARGUMENT") -> Case:
    """A request that Guard refuses, whatever the server makes of it."""
    return Case(ask, direct, Refused(code, says))


def anything(_got: Any) -> bool:
    """These servers take requests that don't fit the model."""
    return True


SHAPE = ["-1", "1", "8", "8"]
BROKEN = Refused("INTERNAL", "")
COMMON = {
    "server live": Case(told(lambda p: p.client.is_server_live()), direct=True),
    "server ready": Case(told(lambda p: p.client.is_server_ready()), direct=True),
    "model ready": Case(told(lambda p: p.client.is_model_ready("digits")), direct=True),
    "model metadata": Case(
        told(lambda p: MessageToDict(p.client.get_model_metadata("digits"))),
        lambda got: got["inputs"] == [{"name": "input", "datatype": "FP32", "shape": SHAPE}],
    ),
    "unknown model metadata": Case(
        told(lambda p: p.client.get_model_metadata("nobody")), Refused("NOT_FOUND", "nobody")
    ),
    "model config": Case(
        told(lambda p: p.client.get_model_config("digits")), Refused("UNIMPLEMENTED", "Method not found!")
    ),
    "statistics": missing("get_inference_statistics"),
    "infer 1": Case(lambda p, x: whole(p.infer(tensor(x[:1]))), logits(1)),
    "infer 8": Case(sent(), logits(8)),
    "infer with typed contents": Case(
        by_hand(typed=True), lambda got: len(got["outputs"][0]["contents"]["fp32Contents"]) == 80 and not got["raw"]
    ),
    "content type": Case(by_hand(content_type="np"), logits(8)),
    "request id": Case(sent(request_id="a-7"), lambda got: got["id"] == "a-7"),
    "requested output": Case(sent(outputs=[triton_client.InferRequestedOutput("logits")]), logits(8)),
    "parameters": Case(
        sent(parameters={"a": 1, "b": "c", "d": True}, timeout=5_000_000, priority=1, sequence_id=5), logits(8)
    ),
    "compressed": Case(sent(compression_algorithm="gzip"), logits(8)),
    "unknown model": refused(
        lambda p, x: p.client.infer("nobody", [tensor(x)]),
        Refused("NOT_FOUND", "nobody"),
        "model 'nobody' is not under guard",
        "PERMISSION_DENIED",
    ),
    "wrong data type": refused(
        lambda p, x: p.infer(tensor(x.astype(np.float64), datatype="FP64")),
        BROKEN,
        "must be FP32, the request says FP",
    ),
    "wrong shape": refused(lambda p, x: p.infer(tensor(x.reshape(8, 64))), BROKEN, "must have shape [n, 1, 8, 8]"),
    "wrong input name": refused(
        lambda p, x: p.infer(tensor(x, name="image")), anything, "takes exactly one input, named 'input'"
    ),
    "extra input": refused(
        lambda p, x: p.infer(tensor(x), tensor(x, name="extra")), anything, "takes exactly one input, named 'input'"
    ),
    "empty batch": refused(lambda p, x: p.infer(tensor(x[:0])), anything, "has a batch of 0 items; send at least one"),
    "trace settings": refused(
        lambda p, _: p.client.get_trace_settings(),
        Refused("UNIMPLEMENTED", "Method not found!"),
        "guard does not let TraceSetting through",
        "PERMISSION_DENIED",
    ),
}


def controlled(code: str) -> Case:
    """Loading and unloading, which each server refuses in its own way where it has no such model."""
    return refused(
        lambda p, _: p.client.unload_model("nobody"),
        Refused(code, ""),
        "guard does not let RepositoryModelUnload through",
        "PERMISSION_DENIED",
    )


def metadata(name: str, version: str) -> Case:
    """Who answers."""
    return Case(
        lambda p, _: MessageToDict(p.client.get_server_metadata()),
        lambda got: (got["name"], got["version"]) == (name, version),
    )


MLSERVER = {
    **COMMON,
    "server metadata": metadata("mlserver", "1.7.1"),
    "unknown model ready": Case(told(lambda p: p.client.is_model_ready("nobody")), Refused("UNKNOWN", "nobody")),
    "repository index": Case(
        told(lambda p: MessageToDict(p.client.get_model_repository_index())),
        {"models": [{"name": "digits", "version": "1", "state": "State.READY"}]},
    ),
    "model version": Case(sent(model_version="1"), lambda got: got["modelVersion"] == "1"),
    "unknown version": refused(
        lambda p, x: p.infer(tensor(x), model_version="9"),
        Refused("NOT_FOUND", "digits with version 9 not found"),
        "version '9' of model 'digits' is not under guard: name digits@9 in",
        "PERMISSION_DENIED",
    ),
    "NaN": refused(
        lambda p, x: whole(p.infer(tensor(np.full_like(x[:1], np.nan)))),
        BROKEN,
        "NaN, infinity or a value beyond float32",
    ),
    "model control": controlled("NOT_FOUND"),
}
KSERVE = {
    **COMMON,
    "server metadata": metadata("kserve", "0.21.0"),
    "unknown model ready": Case(told(lambda p: p.client.is_model_ready("nobody")), Refused("NOT_FOUND", "nobody")),
    "repository index": missing("get_model_repository_index"),
    "unknown version": refused(  # KServe has no versions, and answers whatever is asked for
        lambda p, x: whole(p.infer(tensor(x), model_version="9")),
        logits(8),
        "version '9' of model 'digits' is not under guard: name digits@9 in",
        "PERMISSION_DENIED",
    ),
    "NaN": refused(
        lambda p, x: whole(p.infer(tensor(np.full_like(x[:1], np.nan)))),
        logits(1),
        "NaN, infinity or a value beyond float32",
    ),
    "model control": controlled("NOT_FOUND"),
    "stream": Case(on_stream, Refused("UNIMPLEMENTED", "Method not found!")),
}
