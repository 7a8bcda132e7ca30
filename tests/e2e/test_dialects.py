"""The same calls to MLServer and to KServe's Python server, direct and through Guard, over gRPC and HTTP."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from guard.config import Mode, ModelPolicy
from guard.profile import store
from tests.e2e import dialect_cases, dialect_http_cases, http_peer
from tests.e2e.cases import Case
from tests.e2e.dialect_cases import asked, logits, whole
from tests.e2e.http_peer import HttpPeer
from tests.e2e.peer import Peer, Refused, outcome, tensor
from tests.support import digits
from tests.support.dialects import ENVIRONMENTS, needs, serving_digits
from tests.support.profiles import plain_profile
from tests.support.sidecars import serving, settings


@dataclass(frozen=True)
class Served:
    """A server that has the digits, and Guard in front of it; what Guard finds clean, and what it finds not."""

    direct: Peer
    guarded: Peer
    direct_http: HttpPeer
    guarded_http: HttpPeer
    benign: np.ndarray
    attacked: np.ndarray


@pytest.fixture
def _triton_runs() -> None:
    """No Triton runs here."""


@contextmanager
def guarded_server(dialect: str, folder: Path, onnx: Path, noise_secret: Path) -> Iterator[Served]:
    """A server of a dialect, and Guard in front of it."""
    store.save(plain_profile(), folder / "profile")
    policy = ModelPolicy(
        profile=folder / "profile",
        model=onnx,
        mode=Mode.ENFORCE,
        false_positive_rate=0.05,
        screening_budget_s=30.0,
    )
    with ExitStack() as stack:
        server = stack.enter_context(serving_digits(dialect, folder, onnx))
        stack.callback(lambda: sys.stdout.write(server.log.read_text(errors="replace")[-6000:]))
        chosen = settings(server.address, {"digits": policy}, http=True, noise_secret_file=noise_secret)
        guard = stack.enter_context(serving(chosen))
        addresses = server.address, f"127.0.0.1:{guard.grpc_port}"
        direct, guarded = (stack.enter_context(Peer(address)) for address in addresses)
        addresses = server.http_address, f"127.0.0.1:{guard.http_port}"
        direct_http, guarded_http = (stack.enter_context(HttpPeer(address)) for address in addresses)
        images, labels = (part[:24] for part in digits.load_data().test)
        clean = [image for image in images if guarded.verdict(image[None]) == "clean"]
        # Halfway to an attack the model is unsure, which the plain detectors of this profile notice.
        attacks = (images + 0.5 * (digits.attack(digits.trained_network(), images, labels) - images)).astype("f4")
        attack = next(image for image in attacks if guarded.verdict(image[None]) == "adversarial")
        yield Served(direct, guarded, direct_http, guarded_http, np.stack(clean[:8]), attack[None])


@pytest.fixture(scope="module")
def servers(
    digits_onnx: Path, noise_secret: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Served]]:
    """Starts the server of a dialect when it is first asked for."""
    with ExitStack() as stack:

        @functools.cache
        def serve(dialect: str) -> Served:
            folder = tmp_path_factory.mktemp(dialect)
            return stack.enter_context(guarded_server(dialect, folder, digits_onnx, noise_secret))

        yield serve


@pytest.fixture
def served(dialect: str, servers: Callable[[str], Served]) -> Served:
    """The dialect that a test asks for."""
    return servers(dialect)


DIALECTS = [pytest.param(name, marks=needs(name)) for name in ENVIRONMENTS]


def calls(tables: dict[str, dict[str, Case]]) -> list[Any]:
    """Each case of each dialect."""
    return [
        pytest.param(name, case, id=f"{name}-{ask}", marks=needs(name))
        for name in tables
        for ask, case in tables[name].items()
    ]


CALLS = calls({"mlserver": dialect_cases.MLSERVER, "kserve": dialect_cases.KSERVE})
HTTP_CALLS = calls({"mlserver": dialect_http_cases.MLSERVER, "kserve": dialect_http_cases.KSERVE})


@pytest.mark.parametrize(("dialect", "case"), CALLS)
def test_direct(served: Served, case: Case) -> None:
    """The real server does what the table says, so that the table is worth comparing with."""
    case.check_direct(outcome(case.ask, served.direct, served.benign))


@pytest.mark.parametrize(("dialect", "case"), CALLS)
def test_through_guard(served: Served, case: Case) -> None:
    """Through Guard the outcome is the same, errors included, but where the table says that Guard answers first."""
    got = outcome(case.ask, served.guarded, served.benign)
    case.check_guarded(got, lambda: outcome(case.ask, served.direct, served.benign))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_attack(served: Served) -> None:
    """An attack is rejected; the server would have answered it."""
    refused = outcome(lambda peer: peer.infer(tensor(served.attacked)), served.guarded)
    assert isinstance(refused, Refused)
    assert (refused.code, "guard_verdict=adversarial" in refused.message) == ("PERMISSION_DENIED", True)
    assert served.direct.infer(tensor(served.attacked)).model_name == "digits"


@pytest.mark.parametrize(("dialect", "case"), HTTP_CALLS)
def test_direct_by_http(served: Served, case: Case) -> None:
    """The real server's own HTTP does what the table says."""
    case.check_direct(http_peer.outcome(case.ask, served.direct_http, served.benign))


@pytest.mark.parametrize(("dialect", "case"), HTTP_CALLS)
def test_through_guard_by_http(served: Served, case: Case) -> None:
    """Through Guard's HTTP, which asks by gRPC, the outcome is the same, but where the table says otherwise."""
    got = http_peer.outcome(case.ask, served.guarded_http, served.benign)
    case.check_guarded(got, lambda: http_peer.outcome(case.ask, served.direct_http, served.benign))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("_decoded_payload", "7", "has a parameter '_decoded_payload'"),
        ("content_type", "str", "asks for content_type 'str'"),
        ("content_type", "pd", "asks for content_type 'pd'"),
    ],
)
def test_parameters_that_change_the_input(served: Served, name: str, value: str, says: str) -> None:
    """What would have a server execute something else than its tensors is refused, on an input and on the whole."""
    on_input = asked(served.benign, **{name: value})
    on_whole = asked(served.benign)
    on_whole.parameters[name].string_param = value
    for request in (on_input, on_whole):
        refused = outcome(lambda peer, r=request: peer.stub.ModelInfer(r), served.guarded)
        assert isinstance(refused, Refused)
        assert (refused.code, says in refused.message) == ("INVALID_ARGUMENT", True), refused


@pytest.mark.parametrize("dialect", [pytest.param("mlserver", marks=needs("mlserver"))])
class TestStreams:
    """MLServer's streams are of bare answers, which Triton's clients can't read and its own can."""

    def test_answers(self, served: Served) -> None:
        """They come as they are."""
        (direct,) = streamed(served.direct, asked(served.benign))
        (guarded,) = streamed(served.guarded, asked(served.benign))
        assert whole(guarded) == whole(direct)
        assert logits(8)(whole(direct))

    def test_refusals(self, served: Served) -> None:
        """An attack, and a model that is not listed, end the stream with a status: its answers have no place for it."""
        nobody = asked(served.benign)
        nobody.model_name = "nobody"
        for request, says in ((asked(served.attacked), "guard_verdict=adversarial"), (nobody, "'nobody' is not under")):
            refused = outcome(streamed, served.guarded, request)
            assert isinstance(refused, Refused)
            assert (refused.code, says in refused.message) == ("PERMISSION_DENIED", True), refused


def streamed(peer: Peer, *requests: service_pb2.ModelInferRequest) -> list[service_pb2.ModelInferResponse]:
    """What a client of MLServer hears on a stream."""
    call = peer.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )
    return list(call(iter(requests)))
