"""From an attack to the message that wakes somebody: a real Prometheus and Alertmanager watch a real Guard and Triton.

`make ops-test` runs it; it takes under three minutes. Time is divided by ten.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.deploy.rules import cpu_limit_s
from tests.ops.guarded import guarded
from tests.ops.traffic import sending
from tests.ops.watchers import HURRY, Prometheus, Receiver, wait_for, watching
from tests.support import digits

MISSING = [name for name in ("prometheus", "prometheus-alertmanager") if shutil.which(name) is None]
PEOPLE = [f"127.0.0.{number}" for number in range(10, 18)]
ATTACKERS = [f"127.0.1.{number}" for number in range(10, 14)]
INTRUDERS = ["127.0.2.10"]
QUIET_S = 75.0
"""Longer than any alert here takes to fire in a hurry, but drift and the error budget's slow window."""

FIVE_MINUTES_S = 300.0 / HURRY
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed (Debian packages): {', '.join(MISSING)}")


@dataclass(frozen=True)
class Watched:
    """Prometheus, which has read Guard and Triton, what it has people told, and where to send requests."""

    prometheus: Prometheus
    receiver: Receiver
    guard_port: int
    triton_port: int

    def told_s(self, alert: str) -> float:
        """When people were told first that this fires."""
        found = [(at, each) for at, each in self.receiver.alerts if each["labels"]["alertname"] == alert]
        return min(at for at, each in found if each["status"] == "firing")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Guard in front of Triton, each read once by Prometheus."""
    folder = tmp_path_factory.mktemp("watched")
    with (
        guarded(folder) as (sidecar, triton),
        watching(folder, sidecar.admin_port, triton.metrics_address, overhead_limit_s=cpu_limit_s()) as seen,
    ):
        prometheus, receiver = seen
        wait_for(lambda: prometheus.value("guard_build_info") == 1 and prometheus.value('up{job="triton"}') == 1)
        yield Watched(prometheus, receiver, sidecar.http_port, int(triton.http_address.rpartition(":")[2]))


def test_each_attack_is_told_and_nothing_else_is(watched: Watched) -> None:
    """Benign traffic: nobody is told anything. An attack is told within five minutes, and it alone.

    Somebody who goes round Guard meanwhile is told when the alert's ten minutes are over, by Triton's own counters.
    """
    prometheus, receiver = watched.prometheus, watched.receiver
    test, labels = digits.load_data().test
    attacks = digits.attack(digits.trained_network(), test, labels)
    with sending(watched.guard_port, test, PEOPLE, pace_s=0.8) as benign:
        threading.Event().wait(QUIET_S)
        assert receiver.alerts == []
        assert "firing" not in prometheus.alerts().values()
        assert benign[200] > 0.9 * benign.total()
        assert (prometheus.value("guard:items:increase5m") or 0) > 20
        assert (prometheus.value("guard:triton_inferences:increase10m") or 0) > 20
        began_s = time.time()
        with sending(watched.triton_port, test, INTRUDERS, pace_s=0.2) as round_guard:
            with sending(watched.guard_port, attacks, ATTACKERS, pace_s=0.4) as attacking:
                wait_for(lambda: "GuardAttackSuspected" in receiver.names())
                threading.Event().wait(FIVE_MINUTES_S)
                assert receiver.names() == {"GuardAttackSuspected"}
                assert prometheus.value('ALERTS{alertstate="firing",technique="Craft Adversarial Data"}') == 1
            wait_for(lambda: "GuardBypassSuspected" in receiver.names(), within_s=2 * FIVE_MINUTES_S + 60.0)
    attack_s, bypass_s = (watched.told_s(name) - began_s for name in ("GuardAttackSuspected", "GuardBypassSuspected"))
    print(  # noqa: T201 - for the person who ran it
        f"\nby HTTP status: benign {dict(benign)}, attack {dict(attacking)}, round Guard {dict(round_guard)}"
        f"\nthe attack was told after {attack_s:.1f} s, {attack_s * HURRY / 60:.1f} minutes of scaled time; the bypass "
        f"after {bypass_s:.1f} s, {bypass_s * HURRY / 60:.1f} minutes; alerts: {prometheus.alerts()}"
    )
    assert receiver.names() == {"GuardAttackSuspected", "GuardBypassSuspected"}
    told = {alert["labels"]["alertname"]: alert for _, alert in receiver.alerts}
    assert {alert["labels"]["model"] for alert in told.values()} == {"digits"}
    assert told["GuardAttackSuspected"]["labels"]["atlas"] == "AML.T0043,AML.T0015"
    assert attack_s < FIVE_MINUTES_S
