"""Ways round Guard, each tried on a real Triton that keeps what it executes. An attack that it executes got round."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.e2e.house import HEADER, RATE, SECRET, THOROUGH_S, House, Told, document, request, typed
from tests.e2e.http_peer import HttpPeer
from tests.e2e.peer import Peer
from tests.e2e.ways import (
    FORGED_METADATA,
    GUESSED_METADATA,
    WAYS,
    World,
    among_64,
    forged,
    forged_document,
    halfway,
    sent,
    split,
)
from tests.support.digits import DigitsData
from tests.support.waiting import wait_for

_CLIENTS = 6
HTTP = {"PERMISSION_DENIED": "403", "INVALID_ARGUMENT": "400", "UNIMPLEMENTED": "501"}


TRIED = [
    (way, protocol)
    for way, tried in WAYS.items()
    for protocol in ("grpc", "stream", "rest")
    if (tried.body if protocol == "rest" else tried.message) is not None
]


@pytest.mark.parametrize(("way", "protocol"), TRIED)
def test_no_way_round(world: World, way: str, protocol: str) -> None:
    """Guard refuses, and says why; the server does not see the attack."""
    tried, before = WAYS[way], world.house.executed()
    if protocol == "rest":
        assert tried.body is not None
        headers = {name.replace("-", "_"): value for name, value in tried.metadata}
        told = world.house.rest(*tried.body(world), path=tried.path, **headers)
    else:
        assert tried.message is not None
        send = world.house.grpc if protocol == "grpc" else world.house.stream
        told = send(tried.message(world), tried.metadata)
    assert told.code == (HTTP[tried.code] if protocol == "rest" else tried.code), told
    assert tried.says in told.message
    assert world.house.executed() == before


FORMS: dict[str, Callable[[House, np.ndarray], Told]] = {
    "raw": lambda house, x: house.grpc(sent(request(x))),
    "typed": lambda house, x: house.grpc(sent(typed(x))),
    "stream": lambda house, x: house.stream(sent(request(x))),
    "JSON": lambda house, x: house.rest(json.dumps(document(x)).encode()),
    "bare": lambda house, x: house.rest(b"", x.tobytes()),
    "forged metadata": lambda house, x: house.grpc(sent(request(x)), FORGED_METADATA),
}


@pytest.mark.parametrize("form", FORMS)
def test_executed_as_screened(world: World, form: str) -> None:
    """What the server executes is to the byte what Guard found clean."""
    image = world.benign[list(FORMS).index(form)][None]
    world.house.file.write_text("")
    assert FORMS[form](world.house, image).verdict == "clean"
    assert world.house.executed() == {image.tobytes()}


FORWARDED = [(model, way) for model in ("digits", "flagging") for way in ("grpc", "stream", "rest")]


@pytest.mark.parametrize(("model", "way"), FORWARDED)
def test_what_is_forged_stays_behind(world: World, model: str, way: str) -> None:
    """The server is told nothing of Guard's that a client wrote, be its request clean or flagged; all else it is."""
    image, name = world.attack if model == "flagging" else world.benign[:1], f"forged-{model}-{way}"
    if way == "rest":
        headers = {key.replace("-", "_"): value for key, value in GUESSED_METADATA}
        told = world.house.rest(forged_document(image, name), path=f"/v2/models/{model}/infer", **headers)
    else:
        send = world.house.grpc if way == "grpc" else world.house.stream
        told = send(forged(image, model, name), GUESSED_METADATA)
    assert told.verdict == ("adversarial" if model == "flagging" else "clean"), told
    ((message, metadata),) = world.house.received(name)
    received = service_pb2.ModelInferRequest.FromString(message)
    places = received, received.inputs[0], received.outputs[0]
    own = [[key for key in place.parameters if not key.startswith("binary_data")] for place in places]
    assert own == [["honest"]] * 3
    ours = [(key, value) for key, value in metadata if key.startswith(("guard", "triton-grpc-protocol"))]
    assert ours == [(HEADER, SECRET)]
    assert ("x-honest", "yes") in metadata


@pytest.mark.parametrize("model", ["digits", "flagging"])
@pytest.mark.parametrize("way", ["grpc", "stream"])
def test_one_form(world: World, model: str, way: str) -> None:
    """However a request was cut into fields, the server gets the one form that was screened, to the byte."""
    image, name = world.attack if model == "flagging" else world.benign[:1], f"split-{model}-{way}"
    told = (world.house.grpc if way == "grpc" else world.house.stream)(split(image, model, name))
    assert told.verdict == ("adversarial" if model == "flagging" else "clean"), told
    ((message, _),) = world.house.received(name)
    form = typed(image, model)
    form.id = name
    form.model_version = service_pb2.ModelInferRequest.FromString(message).model_version
    assert message == form.SerializeToString(deterministic=True)


@pytest.mark.parametrize("value", ["true", "false", "", "TRUE"])
def test_screen_only(world: World, value: str) -> None:
    """Who asks for a verdict alone gets no inference, be the input clean or not, nor does who asks in another way."""
    before = world.house.executed()
    for image, verdict in ((world.attack, "adversarial"), (world.benign[:1] * np.float32(0.99), None)):
        asked = (("guard-screen-only", value),)
        text = json.dumps(document(image)).encode()
        told = world.house.grpc(sent(request(image)), asked), world.house.rest(text, guard_screen_only=value)
        assert [each.code for each in told] == (["OK", "200"] if value == "true" else ["INVALID_ARGUMENT", "400"])
        if value == "true":
            assert told[0].verdict == told[1].verdict
            assert verdict in {None, told[0].verdict}
        assert world.house.stream(sent(request(image)), asked).code == "UNIMPLEMENTED"
    assert world.house.executed() == before


def test_the_server_refuses_who_comes_directly(world: World) -> None:
    """Beside Guard neither gRPC nor HTTP leads to the server, unless one knows the secret; then the attack is run."""
    triton = world.house.triton
    text = json.dumps(document(world.attack)).encode()
    with Peer(triton.address) as peer, HttpPeer(triton.http_address) as http:
        with pytest.raises(grpc.RpcError, match="protocol is restricted"):
            peer.stub.ModelInfer(request(world.attack))
        with pytest.raises(grpc.RpcError, match="protocol is restricted"):
            list(peer.stub.ModelStreamInfer(iter([request(world.attack)])))
        status, _, said = http.raw("POST", "/v2/models/digits/infer", text)
        assert (status, b"restricted" in said) == (403, True), said
        world.house.file.write_text("")
        assert peer.stub.ModelInfer(request(world.attack), metadata=((HEADER, SECRET),)).model_name == "digits"
    assert world.house.executed() == {world.attack.tobytes()}
    world.house.file.write_text("")


def test_load_with_another_configuration(world: World) -> None:
    """A model that is loaded again would be another one than was verified: neither protocol lets clients do it."""
    override = service_pb2.RepositoryModelLoadRequest(model_name="digits")
    override.parameters["config"].string_param = '{"max_batch_size": 1}'
    override.parameters["file:1/model.py"].bytes_param = b"print()"
    with Peer(f"127.0.0.1:{world.house.guards[0].grpc_port}") as peer:
        with pytest.raises(grpc.RpcError, match="does not let RepositoryModelLoad through"):
            peer.stub.RepositoryModelLoad(override)
        with pytest.raises(grpc.RpcError, match="does not let RepositoryModelUnload through"):
            peer.stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="digits"))
        for path in ("v2/repository/models/digits/load", "v2//repository/models/digits/load"):
            told = world.house.rest(b'{"parameters": {"config": "{}"}}', path=f"/{path}")
            assert told.code in {"403", "404"}, told
        assert peer.client.get_model_config("digits", as_json=False).config.max_batch_size == 64
        assert peer.client.is_model_ready("digits")


def test_replays(world: World, digits_data: DigitsData, adversarial: np.ndarray) -> None:
    """Nobody re-rolls the dice: a request gets one verdict, however often, from each replica, after a reload too."""
    doubtful = halfway(digits_data, adversarial)

    def verdicts(guard: int = 0) -> list[str | None]:
        return [world.house.grpc(sent(request(image[None])), guard=guard).verdict for image in doubtful]

    first = verdicts()
    assert set(first) == {"clean", "adversarial"}
    assert verdicts() == first
    assert verdicts(guard=1) == first
    assert [world.house.rest(json.dumps(document(x[None])).encode()).verdict for x in doubtful] == first
    world.house.reload(0.2)
    world.house.reload(RATE)
    assert verdicts() == first


def test_screening_past_its_budget(world: World) -> None:
    """What can't be screened in time is not forwarded, be it the policy's time or the client's, and is counted."""
    batch = sent(request(among_64(world)))
    hasty, unscreened = sent(request(among_64(world), model="hasty")), 'guard_unscreened_requests_total{.*"deadline"'
    before, counted = world.house.executed(), world.house.counted(unscreened)
    told = world.house.grpc(hasty)
    assert (told.code, told.verdict) == ("UNAVAILABLE", "unscreened"), told
    told = world.house.rest(json.dumps(document(among_64(world))).encode(), path="/v2/models/hasty/infer")
    assert (told.code, told.verdict) == ("503", "unscreened"), told
    assert world.house.counted(unscreened) == counted + 2
    assert world.house.grpc(batch, timeout_s=0.01).code == "DEADLINE_EXCEEDED"
    assert world.house.executed() == before


def test_an_engine_kept_busy(world: World) -> None:
    """Screening that began and runs out of time ends as the policy says, is counted, and nothing of it is forwarded."""
    evaluations, unscreened = (
        f'guard_{name}_total{{.*model="thorough"' for name in ("model_evaluations", "unscreened_requests")
    )
    before = [world.house.counted(each) for each in (evaluations, unscreened)]
    batches = [np.clip(world.benign - np.float32(0.002 * number), 0, 1) for number in range(1, _CLIENTS + 1)]
    with ThreadPoolExecutor(_CLIENTS) as clients:
        told = list(clients.map(lambda x: world.house.grpc(sent(request(x, model="thorough"))), batches))
    late = [x for x, each in zip(batches, told, strict=True) if each.verdict == "unscreened"]
    assert {each.code for each in told if each.verdict == "unscreened"} <= {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
    assert "UNAVAILABLE" in {each.code for each in told}, told
    after = [world.house.counted(each) for each in (evaluations, unscreened)]
    assert after[0] > before[0]
    assert after[1] == before[1] + len(late)
    assert world.house.executed().isdisjoint({item.tobytes() for x in late for item in x})


def test_a_client_that_takes_its_time(world: World) -> None:
    """The time that a request takes to arrive is not the screening's: it is judged as any other."""

    def judged() -> bool:
        told = world.house.slowly(sent(request(world.attack, model="thorough")), 8, THOROUGH_S / 4)
        assert "grpc-status" in told
        return "guard-verdict" in told and "unscreened" not in told

    wait_for(judged)  # a busy machine may leave one unscreened


@pytest.mark.parametrize("model", ["digits", "speculative"])
@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.003])
def test_cancelled_before_the_verdict(world: World, after_s: float, model: str) -> None:
    """Who leaves before the verdict learns nothing, and that it was asked is counted; the server sees it if it may."""
    batch = np.clip(among_64(world) + np.float32(after_s), 0, 1)
    requests = f'guard_requests_total{{.*decision="none",model="{model}"'
    before, counted = world.house.executed(), world.house.counted(requests)

    def asked() -> bool:
        call = world.house.begin(sent(request(batch, model=model)))
        time.sleep(after_s)
        assert call.cancel()
        assert call.code() is grpc.StatusCode.CANCELLED
        assert not call.initial_metadata()
        assert not call.trailing_metadata()
        return world.house.counted(requests) > counted

    if after_s:
        wait_for(asked)  # on a busy machine a call may end before it has left
    else:
        asked()
    if model == "digits":
        assert world.house.executed() == before


def test_cancelled_once_the_server_has_answered(world: World) -> None:
    """Where the server runs at once, what it computed is held back: who leaves then has neither it nor the verdict."""
    batch = np.clip(world.benign - np.float32(0.05), 0, 1)
    requests, answers = (
        f'guard_{name},model="ahead"'
        for name in ('requests_total{.*decision="none"', 'upstream_requests_total{.*code="OK"')
    )
    counted = world.house.counted(requests)

    def left_in_time() -> bool:
        answered = world.house.counted(answers)
        call = world.house.begin(sent(request(batch, model="ahead")))
        wait_for(lambda: world.house.counted(answers) > answered)
        time.sleep(0.1)
        if not call.cancel():
            return False  # on a busy machine the server may take longer than the screening
        assert call.code() is grpc.StatusCode.CANCELLED
        assert not call.initial_metadata()
        assert not call.trailing_metadata()
        return True

    wait_for(left_in_time)
    wait_for(lambda: world.house.counted(requests) > counted)
