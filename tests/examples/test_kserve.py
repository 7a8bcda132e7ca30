"""The example with KServe, which tests/walk starts: of its InferenceService, what can be held against schemas."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from examples.kserve.__main__ import main
from guard import __version__
from guard.app.policy import load_policy
from guard.config import host_and_port
from tests.examples.commands import ROOT
from tests.support.dialects import ENVIRONMENTS, needs

KSERVE = ENVIRONMENTS["kserve"] / "bin" / "python"
POLICY, SERVICE = yaml.safe_load_all((ROOT / "examples" / "kserve" / "inferenceservice.yaml").read_text())
PREDICTOR = SERVICE["spec"]["predictor"]
SERVER, GUARD = PREDICTOR["containers"]
OF_KSERVE = {"minReplicas"}


def test_kserve_is_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without KServe the example says what installs it."""
    monkeypatch.setattr(sys, "argv", ["kserve", "--dir", str(folder), "--python", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"run `make \.venv-kserve`, which makes it, or name yours with --python"):
        main()


@needs("kserve")
def test_kserve_knows_the_fields() -> None:
    """KServe's own models know each field of the InferenceService, and would notice one that is misspelt."""
    assert unknown(SERVICE) == []
    wrong = copy.deepcopy(SERVICE)
    wrong["spec"]["predictor"]["minReplica"] = 1
    wrong["spec"]["predictor"]["containers"][0]["imagePolicy"] = "Always"
    assert unknown(wrong) == [".spec.predictor.containers[0].imagePolicy", ".spec.predictor.minReplica"]


def unknown(service: Any) -> list[str]:
    """Fields that KServe's models don't know."""
    script = Path(__file__).with_name("known_to_kserve.py")
    ran = subprocess.run([KSERVE, script], input=json.dumps(service), capture_output=True, text=True, check=True)
    return sorted(json.loads(ran.stdout))


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_the_pod_is_valid(version: str) -> None:
    """What is not KServe's own of the predictor is a pod that Kubernetes takes, and so is the policy's ConfigMap."""
    spec = {name: value for name, value in PREDICTOR.items() if name not in OF_KSERVE}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "digits"}, "spec": spec}
    for each in (pod, POLICY):
        kubernetes_validate.validate(each, version, strict=True)


def test_nobody_comes_round_guard() -> None:
    """KServe sends what comes to Guard's ports, and the server has none; what Guard says of itself stays inside."""
    policy = yaml.safe_load(POLICY["data"]["policy.yaml"])
    assert GUARD["name"] == "transformer-container"  # where KServe's service leads, its first port as 80
    assert "ports" not in SERVER
    listens = [host_and_port(policy["listen"][name])[1] for name in ("http_address", "address")]
    assert [port["containerPort"] for port in GUARD["ports"]] == listens
    assert policy["upstream"]["address"] == f"127.0.0.1:{SERVER['command'][3]}"
    admin = host_and_port(policy["listen"]["admin_address"])[1]
    assert {each["readinessProbe"]["httpGet"]["port"] for each in (SERVER, GUARD)} == {admin}
    assert GUARD["image"] == f"guard:{__version__}"


def test_the_policy_is_one(folder: Path, tmp_path: Path) -> None:
    """Guard takes the policy, with the files where they are here."""
    (tmp_path / "secret").write_text("0" * 64)
    text = POLICY["data"]["policy.yaml"].replace("/run/guard-noise/secret", str(tmp_path / "secret"))
    text = text.replace("/mnt/digits/model.onnx", str(folder / "digits.onnx")).replace("/mnt/digits", str(folder))
    (tmp_path / "policy.yaml").write_text(text)
    settings, models = load_policy(tmp_path / "policy.yaml")
    for model in models.values():
        model.close()
    assert set(settings.models) == {"digits"}
