"""A Guard with a console that was attacked, and a browser to look at it with."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from guard.app import Sidecar
from guard.profile import store
from guard.recording import Console
from tests.app.parts import policy
from tests.audit.parts import settings as audit
from tests.console.parts import House, bad_ones
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import client_of, embedded, running, settings, wait_until
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A running Guard with a console and an audit log, that let ten digits through and rejected three or more."""
    folder, began_s = tmp_path_factory.mktemp("console"), time.monotonic()
    store.save(plain_profile(), folder / "profile")
    with LoopThread() as loop, embedded(loop, {"digits": digits.onnx_file()}) as upstream:
        given = settings(
            upstream,
            {"digits": policy(folder / "profile")},
            console=Console(enabled=True),
            audit=audit(folder / "log"),
        )
        with running(loop, Sidecar(given)) as sidecar, client_of(sidecar.grpc_port) as client:
            wait_until(sidecar)
            sent = House(sidecar, folder / "log", began_s=began_s)
            clean = iter(digits.load_data().test[0])
            while sent.forwarded < 10:
                sent.send(client, next(clean)[None])
            bad = iter(bad_ones())
            while sent.rejected < 3:
                sent.send(client, next(bad)[None])
            wait_for(lambda: len(sent.flagged.latest()) >= sent.rejected)
            yield sent
