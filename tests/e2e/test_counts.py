"""What Guard says that it asked of a Triton, beside what that Triton says it ran: the two sides of a bypass alert."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_client

from guard.app import Sidecar
from guard.config import Cancellation, ModelPolicy, Queries, Upstream
from guard.profile import store
from guard.values import Mode, Sender
from tests.e2e.counts import Since, asked, bounded, ran
from tests.e2e.house import ENSEMBLE, document, request
from tests.e2e.http_peer import HttpPeer
from tests.e2e.peer import Peer, tensor
from tests.e2e.test_streams import DECOUPLED, SUPPORT, WAIT_S, Stream
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import running, settings
from tests.support.triton import Triton
from tests.support.waiting import wait_for

PLAIN = DECOUPLED.replace("model_transaction_policy { decoupled: True }\n", "")
MODELS = ("digits", "many", "chain", "counter", "slow")
IMAGES = digits.load_data().test[0].astype(np.float32)


@pytest.fixture(scope="module", params=[Cancellation.NEVER, Cancellation.ALWAYS])
def cancellation(request: pytest.FixtureRequest) -> Cancellation:
    """Whether Triton hears that a client left."""
    return request.param


@pytest.fixture(scope="module")
def server(digits_onnx: Path, cancellation: Cancellation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """The digits plain, decoupled and as an ensemble; a model with many answers, and one that takes its time.

    Its counts begin with those of the Guard before it.
    """
    folder = tmp_path_factory.mktemp(f"counts_{cancellation}")
    others = dict.fromkeys(("many", "inner"), digits_onnx)
    server = Triton(folder, name="digits", onnx=digits_onnx, others=others)
    server.amend("many", "model_transaction_policy { decoupled: True }")
    server.add("counter", SUPPORT / "triton_decoupled.py", DECOUPLED)
    server.add("slow", SUPPORT / "triton_slow.py", PLAIN)
    for version in "12":
        (folder / "models" / "chain" / version).mkdir(parents=True)
    (folder / "models" / "chain" / "config.pbtxt").write_text(f'name: "chain"\n{ENSEMBLE}')
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guard(server: Triton, cancellation: Cancellation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A Guard that only watches, so that what Triton refuses gets there."""
    profile = tmp_path_factory.mktemp("counting") / "profile"
    store.save(plain_profile(), profile)
    policy = ModelPolicy(profile=profile, model=digits.onnx_file(), mode=Mode.SHADOW, queries=Queries.SKIP)
    upstream = Upstream(address=server.address, cancellation=cancellation)
    chosen = settings(server.address, dict.fromkeys(MODELS, policy), upstream=upstream, http=True)
    with LoopThread() as loop, running(loop, Sidecar(chosen)) as started:
        yield started


def refused(infer: grpc.UnaryUnaryMultiCallable, message: object, code: str) -> None:
    """Send what Triton answers with an error."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(message, timeout=WAIT_S)
    assert caught.value.code().name == code


def told(since: Since, model: str, sender: Sender, **expected: int) -> None:
    """Wait until so much is counted, no more, and agrees with what Triton ran."""
    wait_for(lambda: since.asked(model, sender) == expected)
    wait_for(lambda: bounded(since.triton, since.guards, model))


BAD: Mapping[str, triton_client.InferInput] = {
    "wrong shape": tensor(IMAGES[:1].reshape(1, 64)),
    "unknown input": tensor(IMAGES[:1], name="other"),
    "wrong dtype": tensor(IMAGES[:1].astype(np.float64), datatype="FP64"),
}


def test_calls(server: Triton, guard: Sidecar) -> None:
    """A batch counts as one, what Triton refuses as failed, over HTTP too."""
    since = Since(server, [guard], MODELS)
    with (
        Peer(f"127.0.0.1:{guard.grpc_port}") as guarded,
        HttpPeer(f"127.0.0.1:{guard.http_port}") as http,
    ):
        for image in IMAGES[:6]:
            guarded.infer(tensor(np.stack([image, image])))
        for wrong in BAD.values():
            with pytest.raises(triton_client.InferenceServerException):
                guarded.infer(wrong)
        for values, status in ((IMAGES[:2], 200), (IMAGES[:2].reshape(2, 64), 400)):
            text = json.dumps(document(values)).encode()
            assert http.raw("POST", "/v2/models/digits/infer", text)[0] == status
        told(since, "digits", Sender.CALL, answered=7, failed=4)


def test_an_ensemble(server: Triton, guard: Sidecar) -> None:
    """It counts as one, and what it calls inside Triton does not."""
    since = Since(server, [guard], MODELS)
    with Peer(f"127.0.0.1:{guard.grpc_port}") as guarded:
        for _ in range(3):
            guarded.stub.ModelInfer(request(IMAGES[:2], model="chain"))
        refused(guarded.stub.ModelInfer, request(IMAGES[:1].reshape(1, 64), model="chain"), "INVALID_ARGUMENT")
    told(since, "chain", Sender.CALL, answered=3, failed=1)


@pytest.mark.parametrize("model", ["digits", "many"])
def test_streams(server: Triton, guard: Sidecar, model: str) -> None:
    """Each message counts as a call would, while the stream is open, of a decoupled model too."""
    since = Since(server, [guard], MODELS)
    # One for each model: Triton 2.51 dies now and then where a stream to plain and decoupled ones has one refused.
    with Stream(f"127.0.0.1:{guard.grpc_port}") as stream:
        for number, values in enumerate((IMAGES[:1], IMAGES[:2], IMAGES[:1].reshape(1, 64), IMAGES[:1])):
            stream.ask(model, values, f"{number}")
        stream.hear(4)
        told(since, model, Sender.STREAM, answered=3, failed=1)


def test_many_answers(server: Triton, guard: Sidecar) -> None:
    """A message counts as one however often it is answered. A model that fails may count as a success at Triton."""
    since = Since(server, [guard], MODELS)
    with Stream(f"127.0.0.1:{guard.grpc_port}") as stream:
        stream.ask("counter", np.array([3]), "three")
        stream.ask("counter", np.array([-1]), "broken")
        stream.ask("counter", np.array([0]), "none", enable_empty_final_response=True)
        stream.ask("counter", np.array([0]), "silent")
        stream.hear(3 + 1 + 1)
        wait_for(lambda: since.asked("counter", Sender.STREAM) == {"answered": 2, "unknown": 1})
        stream.finish()  # what was not answered by then never will be
    told(since, "counter", Sender.STREAM, answered=2, unknown=2)


def test_who_does_not_wait(server: Triton, guard: Sidecar, cancellation: Cancellation) -> None:
    """What a client no longer waits for runs on at Triton; it is unknown, unless Guard waits in the client's place."""
    since, takes = Since(server, [guard], MODELS), np.array([0.5], np.float32)
    with Peer(f"127.0.0.1:{guard.grpc_port}") as guarded:
        guarded.stub.ModelInfer(request(takes / 10, model="slow"))
        refused(guarded.stub.ModelInfer, request(-takes, model="slow"), "INTERNAL")
        with suppress(grpc.RpcError):
            guarded.stub.ModelInfer(request(takes, model="slow"), timeout=0.2)
        left = guarded.stub.ModelInfer.future(request(takes, model="slow"))
        threading.Event().wait(0.2)
        left.cancel()
        answered = 3 if cancellation is Cancellation.NEVER else 1
        told(since, "slow", Sender.CALL, answered=answered, unknown=4 - answered)
        stream = guarded.stub.ModelStreamInfer(iter([request(takes, model="slow")]))
        threading.Event().wait(0.2)
        stream.cancel()
        told(since, "slow", Sender.STREAM, unknown=1)
    wait_for(lambda: since.ran("slow") == 5)


def test_guard_itself(server: Triton, guard: Sidecar) -> None:
    """Guard's own evaluations count, those that a model does not take as failed."""
    since = Since(server, [guard], MODELS)
    wait_for(lambda: since.asked("slow", Sender.GUARD).get("failed", 0) >= 1)
    assert "answered" not in since.asked("slow", Sender.GUARD)
    for model in ("digits", "many"):  # it recognised these, the second one on a stream
        wait_for(lambda model=model: asked([guard], model, Sender.GUARD)["answered"] >= 1)
    for model in MODELS:
        wait_for(lambda model=model: bounded(server, [guard], model))


def test_a_client_that_goes_round(server: Triton, guard: Sidecar) -> None:
    """It counts on Triton's side only, and calls that fail do not hide it."""
    since = Since(server, [guard], MODELS)
    with Peer(f"127.0.0.1:{guard.grpc_port}") as guarded, Peer(server.address) as direct:
        for image in IMAGES[:4]:
            direct.infer(tensor(image[None]))
            for wrong in BAD.values():
                with pytest.raises(triton_client.InferenceServerException):
                    guarded.infer(wrong)
    wait_for(lambda: since.asked("digits", Sender.CALL) == {"failed": 12})
    wait_for(lambda: ran(server)["digits"] == asked([guard], "digits")["answered"] + 4)
