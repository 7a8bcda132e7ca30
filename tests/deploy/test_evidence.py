"""The overlay `evidence`: its audit log and traces, of a running Guard with the policy as it is rendered."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from guard.audit.records import records
from tests.deploy.pods import Pod, laid_out
from tests.deploy.rendered import LINK, container, needs_kubectl, pod, policy, resource
from tests.support import digits
from tests.support.otlp import receiving
from tests.support.sidecars import client_of

pytestmark = needs_kubectl
FOLDER = "overlays/evidence"
GIB = 2**30


def test_the_log_has_a_disk_of_the_size_that_the_policy_says() -> None:
    """It is of each pod's own, Guard's user may write to it, and what Guard keeps there never fills it."""
    (volume,) = (each for each in pod(FOLDER)["volumes"] if each["name"] == "guard-audit")
    claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    audit, mounts = policy(FOLDER)["audit"], container(FOLDER, "guard")["volumeMounts"]
    assert audit["segment_bytes"] < audit["volume_bytes"] == GIB
    (mount,) = (each for each in mounts if each["name"] == "guard-audit")
    assert audit["folder"].startswith(f"{mount['mountPath']}/"), "a disk's root may hold what is not Guard's"
    assert not mount.get("readOnly", False)
    group = container(FOLDER, "guard")["securityContext"]["runAsGroup"]
    assert pod(FOLDER)["securityContext"]["fsGroup"] == group, "a new disk is root's"
    (keys,) = (each for each in mounts if each["name"] == "guard-audit-keys")
    for file in (audit["pseudonym_key_file"], audit["captures"]["key_file"]):
        assert file.startswith(f"{keys['mountPath']}/")


def test_the_collector_can_be_reached() -> None:
    """The network policy lets Guard's pods to the collector's port and namespace, and to who resolves its name."""
    host, port = policy(FOLDER)["tracing"]["address"].split(":")
    collector, names = resource(FOLDER, "NetworkPolicy")["spec"]["egress"]
    (at,) = collector["to"]
    assert at["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": host.split(".")[1]}
    assert collector["ports"] == [{"protocol": "TCP", "port": int(port)}]
    assert {each["port"] for each in names["ports"]} == {53}


@dataclass(frozen=True)
class Kept:
    """What a Guard left that is gone: its folder, its own log, and the spans that a collector got."""

    folder: Path
    keys: Path
    said: str
    spans: list[Span]

    def asked(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The answer of `guard audit`."""
        command = [Path(sys.executable).with_name("guard"), "audit", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """A pod that is attacked, sends requests until one was traced, and ends as a pod does."""
    collector = policy(FOLDER)["tracing"]["address"]
    with receiving() as receiver, laid_out(tmp_path_factory, FOLDER, {collector: receiver.address}) as running:
        subprocess.run(running.command(LINK), check=True)
        guard = running.start("guard")
        running.start("triton")
        running.wait_for(lambda: running.probe("guard", "readiness"), "Guard's readiness")
        _attack(running)
        with client_of(int(running.ports["8001"])) as client:
            clean = cycle(digits.load_data().test[0])

            def traced() -> bool:
                client.ask("digits", next(clean)[None])
                return bool(receiver.spans())

            running.wait_for(traced, "a span of one request in a hundred")
        running.before_it_ends(guard)
        guard.send_signal(signal.SIGTERM)
        assert guard.wait(timeout=60) == 0
        root = running.root
        yield Kept(
            root / "var/lib/guard/audit", root / "run/guard-audit", (root / "guard.log").read_text(), receiver.spans()
        )


def _attack(running: Pod) -> None:
    """Send attacked digits that only just get over the boundary, until one is found out."""
    images, labels = digits.load_data().test
    attacked = digits.attack(digits.trained_network(), images[:40], labels[:40], epsilon=0.1)
    with client_of(int(running.ports["8001"])) as client:
        verdicts = [client.ask("digits", image[None]).verdict for image in attacked]
    assert "adversarial" in verdicts


def test_what_was_written_is_sound(kept: Kept) -> None:
    """`guard audit verify` says so, up to the hash that Guard's own log ends with; not where a word was changed."""
    (closed,) = (line for line in kept.said.splitlines() if "the audit log is closed" in line)
    verified = kept.asked("verify", str(kept.folder), "--head", json.loads(closed)["head"])
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "is as it was written" in verified.stdout
    (segment,) = kept.folder.glob("guard-audit-*.jsonl")
    whole = segment.read_bytes()
    try:
        segment.write_bytes(whole.replace(b'"adversarial"', b'"clean"', 1))
        assert kept.asked("verify", str(kept.folder)).returncode == 4
    finally:
        segment.write_bytes(whole)


def test_an_attack_can_be_looked_at(kept: Kept, tmp_path: Path) -> None:
    """Its record and its input are there, for who has the key."""
    told = (each for each in records(kept.folder) if "dataref" in each)
    uid = next(each["id"] for each in told if each["data"]["unmapped"]["guard"]["verdict"] == "adversarial")
    picture, key = tmp_path / "input.png", kept.keys / "captures.key"
    shown = kept.asked("show", uid, str(kept.folder), "--key", str(key), "--out", str(picture))
    assert shown.returncode == 0, shown.stderr
    assert "adversarial: flag in flag mode" in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_few_requests_are_traced(kept: Kept) -> None:
    """The collector got spans of the requests that Guard drew, with what was decided."""
    told = [{each.key: each.value.string_value for each in span.attributes} for span in kept.spans]
    assert told
    assert all(re.fullmatch(r"\w{32}", each["guard.request_id"]) and each["guard.mode"] == "flag" for each in told)
