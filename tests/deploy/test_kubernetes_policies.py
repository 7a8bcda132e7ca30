"""The policies in deploy/kubernetes, read as Guard reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from guard.config import Settings
from guard.config_file import json_schema, load_settings
from guard.profile.store import MANIFEST
from tests.deploy.rendered import ALL, KUBERNETES, container, needs_kubectl, policy, policy_text
from tests.support.certificates import Authority

pytestmark = needs_kubectl
DEPLOYING = KUBERNETES.parents[1] / "docs" / "deploying.md"
MODES = {"base": "shadow", "overlays/existing": "shadow", "overlays/shadow": "shadow", "overlays/enforce": "enforce"}


@pytest.mark.parametrize("folder", ALL)
def test_policies(folder: str, tmp_path: Path) -> None:
    """Guard reads each policy without a complaint, with the files where the pod has them; the schema takes it too."""
    text = policy_text(folder)
    Draft202012Validator(json_schema()).validate(yaml.safe_load(text))
    settings = _read(text, tmp_path)
    mounts = {mount["mountPath"] for mount in container(folder, "guard")["volumeMounts"]}
    for path in re.findall(r"(/(?:run|profiles|var)/[^\s,}]+)", text):
        assert any(path.startswith(f"{mount}/") for mount in mounts), f"{path} is on no volume"
    (model,) = settings.models.values()
    assert model.mode == MODES.get(folder, "flag")
    assert settings.noise_secret_file is not None, "else each replica would answer a replayed request differently"


def test_the_document_says_which_ports_a_triton_that_is_there_must_leave_free() -> None:
    """All that Guard's pod uses beside the two at which Guard takes Triton's place."""
    given = policy("overlays/existing")
    used = [*given["upstream"].values(), *given["listen"].values()]
    ports = {address.rpartition(":")[2] for address in used if isinstance(address, str)}
    (said,) = re.findall(r"^Four things make it Guard's, .*$", DEPLOYING.read_text(), re.MULTILINE)
    assert set(re.findall(r"\d{4}", said)) == ports - {"8001", "8000"} != set()


def _read(text: str, folder: Path) -> Settings:
    """Read a policy whose files are in a folder instead of the pod's volumes."""
    for name, content in {"guard-link/secret": "ab" * 32, "guard-noise/secret": "ab" * 32}.items():
        _write(folder / "run" / name, content.encode())
    _write(folder / "profiles" / "digits" / "profile" / MANIFEST, b"{}")
    _write(folder / "profiles" / "digits" / "model.onnx", b"")
    if "/run/guard-audit/" in text:
        for name in ("names.key", "captures.key"):
            _write(folder / "run" / "guard-audit" / name, bytes(32))
    if "/run/guard-query-store/" in text:
        _write(folder / "run" / "guard-query-store" / "password", b"secret")
        _write(folder / "run" / "guard-query-store" / "ca.crt", b"any")
    if "/run/guard-tls/" in text:
        authority = Authority()
        pair = authority.issue("triton.inference.svc")
        for name, content in {
            "tls.crt": pair.certificate,
            "tls.key": pair.key,
            "ca.crt": authority.certificate,
        }.items():
            _write(folder / "run" / "guard-tls" / name, content)
    (folder / "policy.yaml").write_text(re.sub(r"(?<=[ :])/(run|profiles|var)/", rf"{folder}/\1/", text))
    return load_settings(folder / "policy.yaml")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
