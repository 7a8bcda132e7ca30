"""Ways round Guard: what is sent over each protocol, and how Guard should answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from guard.wire.scan import length_delimited
from tests.e2e.house import HEADER, KEY, SECRET, House, document, request, typed
from tests.support.digits import DigitsData

Request = service_pb2.ModelInferRequest
NAME, INPUTS, RAW, UNKNOWN = 1, 5, 7, 1000
ADVERSARIAL = "adversarial input at item"


@dataclass(frozen=True)
class World:
    """What the ways go through, and what they carry: 64 images that Guard finds clean, and one that it rejects."""

    house: House
    benign: np.ndarray
    attack: np.ndarray


@dataclass(frozen=True)
class Way:
    """A way round, and how it ends. `message` goes over gRPC and on a stream, `body` over REST: JSON and the rest."""

    code: str
    says: str
    message: Callable[[World], bytes] | None = None
    body: Callable[[World], tuple[bytes, bytes]] | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    path: str = "/v2/models/digits/infer"


def halfway(digits_data: DigitsData, adversarial: np.ndarray) -> np.ndarray:
    """Images between digits and attacks on them: of some the model is not sure, which Guard notices."""
    images = digits_data.test[0][: len(adversarial)]
    return (images + 0.5 * (adversarial - images)).astype(np.float32)


def sent(message: Request, *behind: bytes) -> bytes:
    """A serialised message, and what is appended to it."""
    return message.SerializeToString() + b"".join(behind)


def field(number: int, contents: bytes) -> bytes:
    """A length-delimited field."""
    return length_delimited(number, len(contents)) + contents


def shared_memory(_: World) -> bytes:
    """An input that lives in shared memory."""
    message = Request(model_name="digits")
    parameters = message.inputs.add(name="input", datatype="FP32", shape=[1, 1, 8, 8]).parameters
    parameters["shared_memory_region"].string_param = "a"
    parameters["shared_memory_byte_size"].int64_param = 256
    return message.SerializeToString()


def shared_memory_body(_: World) -> tuple[bytes, bytes]:
    """The same over REST."""
    where = {"shared_memory_region": "a", "shared_memory_byte_size": 256}
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "parameters": where}
    return json.dumps({"inputs": [tensor]}).encode(), b""


def mixed(world: World) -> bytes:
    """Clean values typed, the attack raw."""
    message = typed(world.benign[:1])
    message.raw_input_contents.append(world.attack.tobytes())
    return message.SerializeToString()


def mixed_body(world: World) -> tuple[bytes, bytes]:
    """Clean values in the JSON, the attack behind it."""
    made = document(world.benign[:1])
    made["inputs"][0]["parameters"] = {"binary_data_size": world.attack.nbytes}
    return json.dumps(made).encode(), world.attack.tobytes()


def split(values: np.ndarray, model: str = "digits", request_id: str = "") -> bytes:
    """Values typed, their contents in two halves, the model named twice, and a field that the protocol has not."""
    tensor = Request.InferInputTensor(name="input", datatype="FP32", shape=values.shape).SerializeToString()
    for half in np.split(values.ravel(), 2):
        tensor += field(5, service_pb2.InferTensorContents(fp32_contents=half.tolist()).SerializeToString())
    others = field(INPUTS, tensor), field(NAME, model.encode()), field(UNKNOWN, b"surplus")
    return sent(Request(model_name="inner", id=request_id), *others)


def doubled_body(world: World) -> tuple[bytes, bytes]:
    """Data twice in one object of JSON: clean, then the attack."""
    text = json.dumps(document(world.benign[:1])).encode()
    return text[:-3] + b', "data": %s}]}' % json.dumps(world.attack.ravel().tolist()).encode(), b""


def out_of_range(_: World) -> bytes:
    """A typed INT8 whose low byte is another number."""
    message = Request(model_name="digits")
    message.inputs.add(name="input", datatype="INT8", shape=[1]).contents.int_contents.append(257)
    return message.SerializeToString()


def among_64(world: World) -> np.ndarray:
    """The attack as one of 64."""
    batch = world.benign.copy()
    batch[41] = world.attack
    return batch


def spoiled(world: World, value: float) -> np.ndarray:
    """The attack, with a value that can't be judged."""
    spoiled = world.attack.copy()
    spoiled.ravel()[0] = value
    return spoiled


def forged(values: np.ndarray, model: str = "digits", request_id: str = "") -> bytes:
    """Values, with a verdict of the client's own in each place that has parameters, and an honest one there."""
    message = request(values, model=model)
    message.id = request_id
    message.outputs.add(name="logits")
    for place in (message, message.inputs[0], message.outputs[0]):
        for name, value in (*FORGED_PARAMETERS.items(), ("honest", "yes")):
            place.parameters[name].string_param = value
    return message.SerializeToString()


def forged_document(values: np.ndarray, request_id: str) -> bytes:
    """The same over REST."""
    parameters = FORGED_PARAMETERS | {"honest": "yes"}
    made = document(values, id=request_id, parameters=parameters, outputs=[{"name": "logits"}])
    made["inputs"][0]["parameters"] = made["outputs"][0]["parameters"] = parameters
    return json.dumps(made).encode()


def of_model(model: str, version: str = "") -> Callable[[World], bytes]:
    """The attack, for another model or version."""
    return lambda world: sent(request(world.attack, model=model, version=version))


def body(values: Callable[[World], np.ndarray], **others: Any) -> Callable[[World], tuple[bytes, bytes]]:
    """Values in JSON."""
    return lambda world: (json.dumps(document(values(world), **others)).encode(), b"")


def attack(world: World) -> np.ndarray:
    """The attack."""
    return world.attack


DENIED, INVALID = "PERMISSION_DENIED", "INVALID_ARGUMENT"
FORGED_PARAMETERS = {"guard_verdict": "clean", "guard_id": "1", "guard_skip": "true", "guard_": ""}
FORGED_METADATA = ((HEADER, SECRET), (KEY, SECRET), ("guard-verdict", "clean"), ("guard-id", "1"))
GUESSED_METADATA = (
    (HEADER, "guessed"),
    ("triton-grpc-protocol-other", "guessed"),
    ("guard-verdict", "clean"),
    ("guard-id", "1"),
    ("x-honest", "yes"),
)
NOT_UNDER_GUARD = "is not under guard"
WAYS = {
    "plain": Way(DENIED, ADVERSARIAL, lambda w: sent(request(w.attack)), body(attack)),
    "shared memory": Way(DENIED, "is in shared memory", shared_memory, shared_memory_body),
    "inner model": Way(DENIED, NOT_UNDER_GUARD, of_model("inner"), body(attack), path="/v2/models/inner/infer"),
    "other version": Way(
        DENIED, NOT_UNDER_GUARD, of_model("digits", "1"), body(attack), path="/v2/models/digits/versions/1/infer"
    ),
    "version by another name": Way(
        DENIED, NOT_UNDER_GUARD, of_model("digits", "01"), body(attack), path="/v2/models/digits/versions/01/infer"
    ),
    "unlisted": Way(DENIED, NOT_UNDER_GUARD, of_model("unlisted"), body(attack), path="/v2/models/unlisted/infer"),
    "name cut short": Way(DENIED, NOT_UNDER_GUARD, of_model("inner\0"), body(attack), path="/v2/models/inner%00/infer"),
    "name of digits cut short": Way(
        DENIED, NOT_UNDER_GUARD, of_model("digits\0"), body(attack), path="/v2/models/digits%00/infer"
    ),
    "split fields": Way(DENIED, ADVERSARIAL, lambda w: split(w.attack)),
    "model named twice": Way(DENIED, NOT_UNDER_GUARD, lambda w: sent(request(w.attack), field(NAME, b"inner"))),
    "input twice": Way(
        INVALID,
        "more than one input named 'input'",
        lambda w: sent(request(w.benign[:1], w.attack)),
        lambda w: (
            json.dumps({"inputs": document(w.benign[:1])["inputs"] + document(w.attack)["inputs"]}).encode(),
            b"",
        ),
    ),
    "name twice": Way(INVALID, "has the name 'data' twice", body=doubled_body),
    "surplus raw": Way(
        INVALID,
        "2 raw_input_contents for 1 input",
        lambda w: sent(request(w.benign[:1]), field(RAW, w.attack.tobytes())),
    ),
    "surplus binary": Way(
        INVALID,
        "bytes more than its JSON",
        body=lambda w: (json.dumps(document(w.benign[:1])).encode(), w.attack.tobytes()),
    ),
    "typed and raw": Way(INVALID, "mixes raw_input_contents with typed", mixed),
    "data and binary": Way(INVALID, "must have either data or", body=mixed_body),
    "out of range": Way(
        INVALID, "range of", out_of_range, body(lambda w: np.where(w.attack < 0.5, 1e39, w.attack.astype(np.float64)))
    ),
    "one of 64": Way(DENIED, "item 41 of 64", lambda w: sent(request(among_64(w))), body(among_64)),
    "NaN": Way(INVALID, "NaN", lambda w: sent(request(spoiled(w, np.nan))), body(lambda w: spoiled(w, np.nan))),
    "infinity": Way(
        INVALID, "nfinity", lambda w: sent(request(spoiled(w, np.inf))), body(lambda w: spoiled(w, np.inf))
    ),
    "forged parameters": Way(
        DENIED,
        ADVERSARIAL,
        lambda w: forged(w.attack),
        body(attack, parameters={"guard_verdict": "clean", "guard_skip": True}),
    ),
    "forged metadata": Way(DENIED, ADVERSARIAL, lambda w: sent(request(w.attack)), body(attack), FORGED_METADATA),
}
