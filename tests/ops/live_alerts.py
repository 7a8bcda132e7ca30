"""From an attack to the message that wakes somebody: a real Prometheus and Alertmanager watch a real Guard.

`make ops-test` runs it; it takes three minutes or so. Time is divided by ten.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator

import pytest
import structlog

from guard.app import Sidecar
from guard.config import Listen, ModelPolicy
from guard.profile import store
from guard.values import Mode
from tests.ops.traffic import sending
from tests.ops.watchers import HURRY, Prometheus, Receiver, wait_for, watching
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import digits_profile
from tests.support.sidecars import embedded, running, settings, wait_until

MISSING = [name for name in ("prometheus", "prometheus-alertmanager") if shutil.which(name) is None]
PEOPLE = [f"127.0.0.{number}" for number in range(10, 18)]
ATTACKERS = [f"127.0.1.{number}" for number in range(10, 14)]
QUIET_S = 75.0
"""Longer than any alert here takes to fire in a hurry, but drift and the error budget's slow window."""

FIVE_MINUTES_S = 300.0 / HURRY
LIMIT_S = 5.0
"""What a request may wait for its verdict on whatever machine this is: the limit that is shipped is for a GPU."""

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed (Debian packages): {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A ready Guard, enforcing, in front of the embedded server."""
    profile = tmp_path_factory.mktemp("profile")
    store.save(digits_profile(), profile)
    policy = ModelPolicy(
        profile=profile,
        model=digits.onnx_file(),
        mode=Mode.ENFORCE,
        false_positive_rate=0.02,
        screening_budget_s=30.0,
    )
    listen = Listen(address="127.0.0.1:0", admin_address="127.0.0.1:0", http_address="127.0.0.1:0")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )  # or a line for each request
    with (
        LoopThread() as loop,
        embedded(loop, {"digits": digits.onnx_file()}) as upstream,
        running(loop, Sidecar(settings(upstream, {"digits": policy}, listen=listen))) as started,
    ):
        wait_until(started)
        yield started
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def watched(sidecar: Sidecar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Receiver]]:
    """Prometheus, which has read Guard, and what it has people told."""
    folder = tmp_path_factory.mktemp("watchers")
    with watching(folder, sidecar.admin_port, overhead_limit_s=LIMIT_S) as (prometheus, receiver):
        wait_for(lambda: prometheus.value("guard_build_info") == 1)
        yield prometheus, receiver


def test_an_attack_is_told_and_nothing_else_is(sidecar: Sidecar, watched: tuple[Prometheus, Receiver]) -> None:
    """Under benign traffic nobody is told anything; an attack is told within five minutes, and it alone."""
    prometheus, receiver = watched
    test, labels = digits.load_data().test
    attacks = digits.attack(digits.trained_network(), test, labels)
    with sending(sidecar.http_port, test, PEOPLE, pace_s=0.8) as benign:
        threading.Event().wait(QUIET_S)
        assert receiver.alerts == []
        assert "firing" not in prometheus.alerts().values()
        assert benign[200] > 0.9 * benign.total()
        assert (prometheus.value("guard:items:increase5m") or 0) > 20
        began_s = time.time()
        with sending(sidecar.http_port, attacks, ATTACKERS, pace_s=0.4) as attacking:
            wait_for(lambda: "GuardAttackSuspected" in receiver.names())
            told_s = min(at for at, alert in receiver.alerts if alert["status"] == "firing")
            threading.Event().wait(FIVE_MINUTES_S)
    print(  # noqa: T201 - for the person who ran it
        f"\nbenign {dict(benign)}, attack {dict(attacking)} by HTTP status; told after {told_s - began_s:.1f} s, "
        f"which is {(told_s - began_s) * HURRY / 60:.1f} minutes of scaled time; alerts: {prometheus.alerts()}"
    )
    assert receiver.names() == {"GuardAttackSuspected"}
    (alert,) = {str(alert["labels"]) for _, alert in receiver.alerts}
    assert "'model': 'digits'" in alert
    assert "AML.T0043" in alert
    assert told_s - began_s < FIVE_MINUTES_S
