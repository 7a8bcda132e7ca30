"""Classifiers that a real Triton answers for otherwise than once a request: decoupled ones, and ones of sequences.

Guard has to ask them as they want to be asked, or it could never tell that they are the profile's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_client

from guard.config import ModelPolicy
from guard.errors import BackendError
from guard.model.upstream import UpstreamBackend, inspect_upstream
from tests.e2e.peer import Peer, Refused, outcome, tensor
from tests.e2e.test_streams import Heard, Stream
from tests.support.digits import DigitsData
from tests.support.links import link
from tests.support.sidecars import serving, settings
from tests.support.triton import Triton

DECOUPLED = "model_transaction_policy { decoupled: True }"
IN_SEQUENCES = """sequence_batching {
  oldest { max_candidate_sequences: 4 }
  control_input [{ name: "START" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }] }]
}"""


@pytest.fixture(scope="module")
def server(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """The digits three times: plain, decoupled, and in sequences."""
    others = dict.fromkeys(("decoupled", "sequences"), digits_onnx)
    server = Triton(tmp_path_factory.mktemp("transactions"), name="digits", onnx=digits_onnx, others=others)
    server.amend("decoupled", DECOUPLED)
    server.amend("sequences", IN_SEQUENCES)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guard_address(server: Triton, enforcing: ModelPolicy, noise_secret: Path) -> Iterator[str]:
    """Guard in front of it, enforcing on all three, each with the one profile; ready once it knows them all."""
    chosen = settings(
        server.address,
        dict.fromkeys(("digits", "decoupled", "sequences"), enforcing),
        noise_secret_file=noise_secret,
    )
    with serving(chosen) as sidecar:
        yield f"127.0.0.1:{sidecar.grpc_port}"


@pytest.fixture(scope="module")
def clean(guard_address: str, digits_data: DigitsData) -> np.ndarray:
    """A digit that Guard finds clean."""
    with Peer(guard_address) as peer:
        return next(image[None] for image in digits_data.test[0][:24] if peer.verdict(image[None]) == "clean")


def test_they_refuse_to_be_asked_plainly(server: Triton, clean: np.ndarray) -> None:
    """The real Triton does refuse: without that the rest would show nothing."""
    refused = {
        "decoupled": Refused("UNIMPLEMENTED", "doesn't support models with decoupled transaction policy"),
        "sequences": Refused("INVALID_ARGUMENT", "must specify a non-zero or non-empty correlation ID"),
    }
    with Peer(server.address) as peer:
        for model, expected in refused.items():
            found = outcome(lambda p, name: p.client.infer(name, [tensor(clean)]), peer, model)
            assert (found.code, expected.message in found.message) == (expected.code, True), found


@pytest.mark.parametrize("model", ["decoupled", "sequences"])
def test_as_replicas(server: Triton, digits_data: DigitsData, model: str) -> None:
    """Such a model is described and asked like any, and answers alike."""
    images = torch.from_numpy(digits_data.test[0][:40])
    answers = []
    for name in ("digits", model):
        info = inspect_upstream(link(server.address), name=name, bounds=(0.0, 1.0), dims=(1, 8, 8))
        with closing(UpstreamBackend(link(server.address), info)) as replica:
            answers.append(replica.logits(images))
    torch.testing.assert_close(*answers)


def test_a_wrong_input_is_refused_as_ever(server: Triton) -> None:
    """What a model finds wrong with a request is an error on a stream, too."""
    info = inspect_upstream(link(server.address), name="decoupled", bounds=(0.0, 1.0), dims=(1, 8, 8))
    with closing(UpstreamBackend(link(server.address), info)) as replica, pytest.raises(BackendError, match="shape"):
        replica.logits(torch.zeros(1, 1, 9, 9))


def test_decoupled_under_guard(guard_address: str, clean: np.ndarray, adversarial: np.ndarray) -> None:
    """A decoupled model is guarded on its stream: clean inputs are answered and marked, attacks are rejected."""
    heard: list[Heard] = []
    with Stream(guard_address) as stream:
        for number, image in enumerate([clean, *(each[None] for each in adversarial[:8])]):
            stream.ask("decoupled", image, str(number))
            heard += stream.hear(1)
    assert (heard[0].id, heard[0].verdict, len(heard[0].values)) == ("0", "clean", 10)
    assert sum("guard_verdict=adversarial" in each.error for each in heard[1:]) >= 6


def test_sequences_under_guard(guard_address: str, clean: np.ndarray, adversarial: np.ndarray) -> None:
    """So is each request of a sequence."""
    with Peer(guard_address) as peer:

        def ask(_: Peer, image: np.ndarray) -> triton_client.InferResult:
            marks = {"sequence_id": 7, "sequence_start": True, "sequence_end": True}
            return peer.client.infer("sequences", [tensor(image)], **marks)

        answered = ask(peer, clean)
        assert answered.get_response().parameters["guard_verdict"].string_param == "clean"
        rejected = [outcome(ask, peer, image[None]) for image in adversarial[:8]]
    assert sum(isinstance(each, Refused) and "guard_verdict=adversarial" in each.message for each in rejected) >= 6


def test_a_rejected_start_starts_nothing(
    server: Triton,
    enforcing: ModelPolicy,
    noise_secret: Path,
    clean: np.ndarray,
    adversarial: np.ndarray,
) -> None:
    """A rejected request never reached the server, even where inference runs beside screening."""
    policy = enforcing.model_copy(update={"speculative": True})
    chosen = settings(server.address, {"digits": policy, "sequences": policy}, noise_secret_file=noise_secret)
    with serving(chosen) as sidecar, Peer(f"127.0.0.1:{sidecar.grpc_port}") as peer:

        def ask(_: Peer, image: np.ndarray, number: int, *, start: bool) -> object:
            return peer.client.infer("sequences", [tensor(image)], sequence_id=number, sequence_start=start)

        rejected = []
        for number, image in enumerate(adversarial[:8], 100):
            if isinstance(outcome(partial(ask, start=True), peer, image[None], number), Refused):
                rejected.append(outcome(partial(ask, start=False), peer, clean, number))
    assert len(rejected) >= 6
    assert all(isinstance(each, Refused) and "must specify the START flag" in each.message for each in rejected)
