"""Policies of deployments, and what the doctor says of them."""

from __future__ import annotations

from pathlib import Path

from guard.doctor import Finding, Level, examine

NOBODY = "127.0.0.1:1"
POLICY = """\
upstream: {{address: "{upstream}"}}
listen: {{address: "127.0.0.1:0", admin_address: "{admin}"{tls}}}
noise_secret_file: {folder}/secret
models:
  digits: {{profile: {folder}/profile, model: {folder}/{model}, mode: enforce, false_positive_rate: 0.05}}
"""


def policy(folder: Path, upstream: str, *, admin: str = NOBODY, model: str = "digits.onnx", tls: str = "") -> Path:
    """A policy file."""
    path = folder / "policy.yaml"
    path.write_text(POLICY.format(upstream=upstream, admin=admin, folder=folder, model=model, tls=tls))
    return path


def look(path: Path) -> dict[str, list[Finding]]:
    """The findings by check. No test machine serves HTTP at port 1."""
    found: dict[str, list[Finding]] = {}
    for finding in examine(path, http_port=1):
        found.setdefault(finding.check, []).append(finding)
    return found


def levels(findings: list[Finding]) -> set[Level]:
    """How bad they are."""
    return {finding.level for finding in findings}
