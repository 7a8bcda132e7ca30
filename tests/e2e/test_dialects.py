"""The same calls to MLServer and to KServe's Python server, direct and through Guard, over gRPC and HTTP."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from guard.config import Mode, ModelPolicy
from guard.profile import store
from tests.e2e.cases import Case
from tests.e2e.dialect_cases import KSERVE, MLSERVER
from tests.e2e.http_peer import HttpPeer
from tests.e2e.peer import Peer, Refused, outcome, tensor
from tests.support import digits
from tests.support.dialects import serving_digits
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


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, digits_onnx: Path, noise_secret: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The dialect that a test asks for."""
    folder = tmp_path_factory.mktemp(request.param)
    store.save(plain_profile(), folder / "profile")
    policy = ModelPolicy(
        profile=folder / "profile",
        model=digits_onnx,
        mode=Mode.ENFORCE,
        false_positive_rate=0.05,
        screening_budget_s=30.0,
    )
    with ExitStack() as stack:
        server = stack.enter_context(serving_digits(request.param, folder, digits_onnx))
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


TABLES = {"mlserver": MLSERVER, "kserve": KSERVE}
CALLS = [
    pytest.param(name, case, id=f"{name}-{asked}") for name, table in TABLES.items() for asked, case in table.items()
]


@pytest.mark.parametrize(("served", "case"), CALLS, indirect=["served"])
def test_direct(served: Served, case: Case) -> None:
    """The real server does what the table says, so that the table is worth comparing with."""
    case.check_direct(outcome(case.ask, served.direct, served.benign))


@pytest.mark.parametrize(("served", "case"), CALLS, indirect=["served"])
def test_through_guard(served: Served, case: Case) -> None:
    """Through Guard the outcome is the same, errors included, but where the table says that Guard answers first."""
    got = outcome(case.ask, served.guarded, served.benign)
    case.check_guarded(got, lambda: outcome(case.ask, served.direct, served.benign))


@pytest.mark.parametrize("served", TABLES, indirect=True)
def test_attack(served: Served) -> None:
    """An attack is rejected; the server would have answered it."""
    refused = outcome(lambda peer: peer.infer(tensor(served.attacked)), served.guarded)
    assert isinstance(refused, Refused)
    assert (refused.code, "guard_verdict=adversarial" in refused.message) == ("PERMISSION_DENIED", True)
    assert served.direct.infer(tensor(served.attacked)).model_name == "digits"
