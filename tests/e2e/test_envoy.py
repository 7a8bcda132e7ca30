"""The real Envoy in front of the real Triton, configured by deploy/envoy, and Guard beside it."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from guard.app import Sidecar
from guard.config import Mode
from tests.e2e.house import HEADER, SECRET, House, Told, document, request, typed
from tests.e2e.http_peer import HttpPeer
from tests.e2e.peer import Peer, answer
from tests.e2e.ways import FORGED_METADATA, WAYS, World, field, sent
from tests.support.envoy import PROGRAM, envoy
from tests.support.sidecars import running, wait_until

pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="the real Envoy is not installed (make servers)")

SERVICE = "/inference.GRPCInferenceService/"
PATIENT = {"message_timeout": "60s"}
WITH_SECRET = ((HEADER, SECRET),)


@contextmanager
def enforcing(world: World, folder: Path, guard_port: int | None = None, **others: Any) -> Iterator[int]:
    """Envoy by enforce.yaml, with the first Guard of the house unless a port says otherwise; the value is its port."""
    port = world.house.guards[0].envoy_port if guard_port is None else guard_port
    with envoy(folder, "enforce.yaml", triton=world.house.triton.address, guard_port=port, **others) as running_one:
        yield int(running_one.address.rpartition(":")[2])


@pytest.fixture(scope="module")
def port(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Envoy's, which waits for Guard however busy the machine is."""
    with enforcing(world, tmp_path_factory.mktemp("envoy"), **PATIENT) as found:
        yield found


def ask(port: int, method: str, message: bytes, **options: Any) -> tuple[str, str, dict[str, Any]]:
    """Make a call: its status, its message without ids, and its trailers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(SERVICE + method)
        try:
            _, ended = call.with_call(message, timeout=60.0, **options)
        except grpc.RpcError as error:
            ended = error
        told = re.sub(r"[0-9a-f]{32}", "ID", ended.details() or "")
        trailers = {**dict(ended.initial_metadata() or ()), **dict(ended.trailing_metadata() or ())}
        return ended.code().name, told, trailers


def test_same_answer(world: World, port: int) -> None:
    """A clean batch gets the server's own answer, with the verdict as trailers."""
    message = request(world.benign[:8])
    with Peer(world.house.triton.address) as direct, Peer(f"127.0.0.1:{port}") as through:
        expected = direct.stub.ModelInfer(message, metadata=WITH_SECRET)
        got, call = through.stub.ModelInfer.with_call(message)
    assert answer(got) == answer(expected)
    trailers = dict(call.trailing_metadata())
    assert trailers["guard-verdict"] == "clean"
    assert re.fullmatch(r"[0-9a-f]{32}", trailers["guard-id"])
    assert {name for name in trailers if name.startswith("guard-")} == {"guard-verdict", "guard-id"}


def test_verdict_in_the_answer(world: World, tmp_path: Path) -> None:
    """With `response_body_mode: BUFFERED` the verdict is among the parameters of the answer, as without Envoy."""
    with (
        enforcing(world, tmp_path, response_body_mode="BUFFERED", **PATIENT) as port,
        Peer(f"127.0.0.1:{port}") as peer,
    ):
        got = peer.stub.ModelInfer(request(world.benign[:8]))
        assert got.parameters["guard_verdict"].string_param == "clean"
        assert len(got.raw_output_contents[0]) == 8 * 10 * 4
        assert peer.client.get_model_config("digits", as_json=False).config.max_batch_size == 64


def test_flagged(world: World, tmp_path: Path) -> None:
    """In flag mode the answer to a batch says which items it is about, in trailers and parameters."""
    policies = {n: p.model_copy(update={"mode": Mode.FLAG}) for n, p in world.house.settings.models.items()}
    flagging = world.house.settings.model_copy(update={"models": policies})
    with running(world.house.loop, Sidecar(flagging)) as guard:
        wait_until(guard)
        envoys = enforcing(world, tmp_path, guard.envoy_port, response_body_mode="BUFFERED", **PATIENT)
        with envoys as port, Peer(f"127.0.0.1:{port}") as peer:
            batch = np.concatenate([world.benign[:7], world.attack])
            got, call = peer.stub.ModelInfer.with_call(request(batch))
    trailers = dict(call.trailing_metadata())
    assert (trailers["guard-verdict"], trailers["guard-items"]) == ("adversarial", "7")
    assert got.parameters["guard_items"].string_param == "7"


PASSED = {
    "live": lambda peer: peer.client.is_server_live(headers=dict(WITH_SECRET)),
    "ready": lambda peer: peer.client.is_model_ready("digits", headers=dict(WITH_SECRET)),
    "metadata": lambda peer: peer.client.get_server_metadata(headers=dict(WITH_SECRET)).name,
    "configuration": lambda peer: peer.client.get_model_config("digits", headers=dict(WITH_SECRET)).config.name,
}


@pytest.mark.parametrize("what", PASSED)
def test_passed(world: World, port: int, what: str) -> None:
    """Calls without inference are answered as the server answers them."""
    with Peer(world.house.triton.address) as direct, Peer(f"127.0.0.1:{port}") as through:
        assert PASSED[what](through) == PASSED[what](direct)


@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if way.message is not None])
def test_no_way_round(world: World, port: int, way: str) -> None:
    """What is no way round Guard itself is none with Envoy in front."""
    tried, before = WAYS[way], world.house.executed()
    assert tried.message is not None
    told = world.house.grpc(tried.message(world), tried.metadata, port=port)
    assert told.code == tried.code, told
    assert tried.says in told.message
    assert world.house.executed() == before


REFUSED = {
    "adversarial": ("ModelInfer", lambda world: sent(request(world.attack))),
    "one of eight": ("ModelInfer", lambda world: sent(request(np.concatenate([world.benign[:7], world.attack])))),
    "garbage": ("ModelInfer", lambda _: b"garbage"),
    "nothing": ("ModelInfer", lambda _: b""),
    "unlisted": ("ModelInfer", lambda world: sent(request(world.benign[:1], model="unlisted"))),
    "NaN": ("ModelInfer", lambda world: sent(request(world.benign[:1] * np.float32("nan")))),
    "another shape": ("ModelInfer", lambda world: sent(request(world.benign[:1].reshape(1, 64)))),
    # Ten times what Envoy holds of a request by default.
    "ten megabytes": ("ModelInfer", lambda _: sent(request(np.zeros((40_000, 1, 8, 8), np.float32)))),
    "load": ("RepositoryModelLoad", lambda _: b""),
    "shared memory": ("SystemSharedMemoryRegister", lambda _: b""),
    "unknown": ("Unheard", lambda _: b""),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_alike(world: World, port: int, what: str) -> None:
    """Guard refuses with the status, message and trailers that it has without Envoy, and nothing is executed."""
    method, message = REFUSED[what]
    before = world.house.executed()
    code, said, trailers = ask(port, method, message(world))
    code_inline, said_inline, trailers_inline = ask(world.house.guards[0].grpc_port, method, message(world))
    assert (code, said) == (code_inline, said_inline)
    assert code != "OK"
    for mark in ("guard-verdict", "guard-items"):
        assert trailers.get(mark) == trailers_inline.get(mark)
    assert re.fullmatch(r"[0-9a-f]{32}", trailers["guard-id"])
    assert world.house.executed() == before


def twice_named(x: np.ndarray) -> bytes:
    """A request with the model's name twice, an unknown field and a parameter that only Guard may write."""
    message = request(x)
    message.parameters["guard_verdict"].string_param = "clean"
    return sent(message, field(1, b"digits"), field(99, b"unknown"))


FORMS = {
    "raw": lambda house, x, port: house.grpc(sent(request(x)), port=port),
    "typed": lambda house, x, port: house.grpc(sent(typed(x)), port=port),
    "not canonical": lambda house, x, port: house.grpc(twice_named(x), port=port),
    "forged metadata": lambda house, x, port: house.grpc(sent(request(x)), FORGED_METADATA, port=port),
    "compressed": lambda _, x, port: Told(
        *ask(port, "ModelInfer", sent(request(x)), compression=grpc.Compression.Gzip)[:2]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_executed_as_screened(world: World, port: int, form: str) -> None:
    """What the server executes is to the byte what Guard found clean, and each request is counted."""
    image = world.benign[20 + list(FORMS).index(form)][None]
    world.house.file.write_text("")
    counted = 'guard_requests_total.*decision="forward",model="digits",protocol="ext_proc"'
    before = world.house.counted(counted)
    assert FORMS[form](world.house, image, port).code == "OK"
    assert world.house.executed() == {image.tobytes()}
    assert world.house.counted(counted) == before + 1


def test_not_screened_here(world: World, port: int) -> None:
    """Streams and HTTP are denied where Envoy carries them, and the answer says what to use."""
    told_before = world.house.executed()
    with (
        Peer(f"127.0.0.1:{port}") as peer,
        pytest.raises(grpc.RpcError, match="use ModelInfer, or guard's own") as caught,
    ):
        list(peer.stub.ModelStreamInfer(iter([request(world.benign[:1])])))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with HttpPeer(f"127.0.0.1:{port}") as http:
        text = json.dumps(document(world.benign[:1])).encode()
        status, headers, body = http.raw("POST", "/v2/models/digits/infer", text)
    assert (status, headers["content-type"]) == (501, "application/json")
    assert "use gRPC, or guard's own HTTP endpoint" in json.loads(body)["error"]
    assert world.house.executed() == told_before


@contextmanager
def silent() -> Iterator[int]:
    """A port where somebody takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        yield bound.getsockname()[1]


@contextmanager
def gone() -> Iterator[int]:
    """A port where nobody listens."""
    with silent() as port:
        pass
    yield port


@pytest.mark.parametrize("how", [gone, silent])
def test_without_guard(world: World, tmp_path: Path, how: Any) -> None:
    """Without Guard, or without its answer in time, nothing passes: clients hear UNAVAILABLE at once."""
    before = world.house.executed()
    with how() as guard_port, enforcing(world, tmp_path, guard_port) as port:
        for method in ("ModelInfer", "ServerLive", "RepositoryModelLoad"):
            code, said, _ = ask(port, method, sent(request(world.benign[:1])))
            assert code == "UNAVAILABLE", said
    assert world.house.executed() == before


@contextmanager
def mirroring(house: House, folder: Path, guard_port: int) -> Iterator[Peer]:
    """Envoy by shadow.yaml, and a stock client of it, which has to know the server's secret itself."""
    with (
        envoy(folder, "shadow.yaml", triton=house.triton.address, guard_port=guard_port) as running_one,
        Peer(running_one.address) as peer,
    ):
        yield peer


def wait_for(counted: Any, at_least: float) -> None:
    """Wait until something is counted so often."""
    for _ in range(1200):
        if counted() >= at_least:
            return
        threading.Event().wait(0.05)
    raise AssertionError(counted())


def test_mirrored(world: World, tmp_path: Path) -> None:
    """In shadow, answers are the server's own, an attack's too; Guard judges copies, and forwards none of them."""
    policies = {n: p.model_copy(update={"mode": Mode.SHADOW}) for n, p in world.house.settings.models.items()}
    watching = world.house.settings.model_copy(update={"models": policies})
    with running(world.house.loop, Sidecar(watching)) as guard:
        wait_until(guard)
        house = House(world.house.triton, world.house.tap, [guard], watching, world.house.loop, world.house.file)
        with mirroring(house, tmp_path, guard.envoy_port) as peer:
            house.file.write_text("")
            for image in (world.benign[:1], world.attack):
                got = peer.stub.ModelInfer(request(image), metadata=WITH_SECRET)
                assert len(got.raw_output_contents[0]) == 40
                assert not any(name.startswith("guard_") for name in got.parameters)
            assert peer.client.is_server_live(headers=dict(WITH_SECRET))
            wait_for(lambda: house.counted('guard_requests_total.*model="digits",protocol="mirror"'), 2)
            assert house.counted('guard_items_total.*model="digits",verdict="adversarial"') == 1
            assert house.counted('guard_items_total.*model="digits",verdict="clean"') == 1
        assert house.file.read_text().split() == [image.tobytes().hex() for image in (world.benign[0], world.attack[0])]
        assert house.counted("guard_refused_requests_total") == 0


def test_mirrored_to_nobody(world: World, tmp_path: Path) -> None:
    """In shadow, clients don't notice that Guard is gone."""
    with gone() as port, mirroring(world.house, tmp_path, port) as peer:
        assert peer.stub.ModelInfer(request(world.attack), metadata=WITH_SECRET).model_name == "digits"


def test_mirrored_to_a_guard_that_would_refuse(world: World, tmp_path: Path) -> None:
    """Where a policy means to refuse, Guard judges no copies: it would count rejections that nobody felt."""
    refused = 'guard_refused_requests_total.*reason="method_denied"'
    before, judged = world.house.counted(refused), world.house.counted("guard_items_total")
    with mirroring(world.house, tmp_path, world.house.guards[0].envoy_port) as peer:
        assert peer.stub.ModelInfer(request(world.attack), metadata=WITH_SECRET).model_name == "digits"
        wait_for(lambda: world.house.counted(refused), before + 1)
    assert world.house.counted("guard_items_total") == judged
