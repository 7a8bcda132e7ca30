"""The demo's client: what counts as caught, and what doesn't."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.app import Sidecar
from guard.demo.traffic import MODEL, Client
from guard.errors import ScreeningError
from guard.profile import store
from guard.values import Action, Mode
from tests.app.parts import NOWHERE, policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import digits_profile
from tests.support.sidecars import embedded, running, settings, wait_until


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile of the digits model."""
    store.save(digits_profile(), tmp_path / "profile")
    return tmp_path / "profile"


def test_what_was_not_screened_is_not_caught(profile: Path) -> None:
    """A request that is refused because nobody could look at it is an error of the demo, not an attack caught."""
    image = digits.load_data().test[0][0]
    with LoopThread() as loop, running(loop, Sidecar(settings(NOWHERE, {MODEL: policy(profile)}))) as sidecar:
        client = Client(sidecar.grpc_port)
        try:
            with pytest.raises(ScreeningError, match=r"a request of the demo was not screened: .*guard_verdict=unscre"):
                client.send(image)
        finally:
            client.close()


@pytest.mark.parametrize(("mode", "outcome"), [(Mode.FLAG, "flagged"), (Mode.ENFORCE, "rejected")])
def test_outcomes(profile: Path, mode: Mode, outcome: str) -> None:
    """What Guard judges adversarial is flagged or rejected by its mode, the rest is forwarded; each takes time."""
    images, labels = (part[:8] for part in digits.load_data().test)
    attacked = digits.attack(digits.trained_network(), images, labels)
    with LoopThread() as loop, embedded(loop, {MODEL: digits.onnx_file()}) as upstream:
        guarded = policy(profile, mode=mode, on_unscreened=Action.REJECT)
        with running(loop, Sidecar(settings(upstream, {MODEL: guarded}))) as sidecar:
            wait_until(sidecar)
            client = Client(sidecar.grpc_port)
            try:
                sent = [[client.send(image) for image in part] for part in (images, attacked)]
            finally:
                client.close()
    benign, adversarial = ([what for what, _ in part] for part in sent)
    assert set(benign + adversarial) == {"forwarded", outcome}
    assert benign.count("forwarded") >= 6
    assert adversarial.count(outcome) >= 6
    assert all(seconds > 0 for part in sent for _, seconds in part)
