"""The image is built as `make image BASE=debootstrap` builds it, and serves as a pod would have it serve.

`make ops-test` runs it; it takes ten minutes, and downloads what it builds of. Where Debian's docker-registry is
installed, the image is pushed to one too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from guard import __version__
from guard.profile import store
from tests.ops.traffic import sending
from tests.ops.watchers import wait_for
from tests.support import digits
from tests.support.ports import free_ports
from tests.support.profiles import digits_profile
from tests.support.triton import Triton

ROOT = Path(__file__).parents[2]
MISSING = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed (Debian packages): {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap takes root"),
    pytest.mark.timeout(3600),
]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
REGISTRY = shutil.which("docker-registry")
DIGEST = ROOT / "build" / f"guard-{__version__}.digest"
INSTALLED = """
import importlib.metadata, json
print(json.dumps({each.name: each.version for each in importlib.metadata.distributions()}))
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Buildah with a store of its own, which is gone afterwards, and pip as it is configured here."""
    images = tmp_path / "images"
    config = tmp_path / "storage.conf"
    config.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{images}"\nrunroot = "{tmp_path / "run"}"\n')
    mounted = [folder for folder in os.environ.get("PIP_FIND_LINKS", "").split() if Path(folder).is_dir()]
    volumes = [f"{folder}:{folder}:ro" for folder in mounted]
    if given := os.environ.get("PIP_CERT"):
        volumes.append(f"{given}:{CERTIFICATES}:ro")
    more = {"BUILDAH_VOLUMES": " ".join([*os.environ.get("BUILDAH_VOLUMES", "").split(), *volumes])}
    given = os.environ | more | {"BASE": "debootstrap", "VARIANT": "cpu", "CONTAINERS_STORAGE_CONF": str(config)}
    with registry(tmp_path) as there:
        yield given | there
    shutil.rmtree(images)


@contextmanager
def registry(folder: Path) -> Iterator[dict[str, str]]:
    """A registry of this machine, where there can be one: what has the build push to it."""
    if REGISTRY is None:
        yield {}
        return
    (port,) = free_ports(1)
    stored = folder / "registry"
    config = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(stored)}}}
    (folder / "registry.yml").write_text(yaml.safe_dump(config | {"http": {"addr": f"127.0.0.1:{port}"}}))
    (folder / "registries.conf").write_text(f'[[registry]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n')
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen([REGISTRY, "serve", folder / "registry.yml"], stdout=log, stderr=log)
    try:
        yield {"PUSH": f"127.0.0.1:{port}/guard", "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf")}
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(stored, ignore_errors=True)


def buildah(environment: dict[str, str], *words: str) -> str:
    """What buildah answers."""
    command = ["buildah", "--storage-driver", "vfs", *words]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def container(environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The image's own command as its own user, with a folder of the host where it looks for its policy."""
    name = buildah(environment, "from", "--pull-never", f"localhost/guard:{__version__}")
    facts: dict[str, Any] = json.loads(buildah(environment, "inspect", name))["OCIv1"]["config"]
    assert facts["User"] == "65532:65532"
    given = ["--isolation", "chroot", "--volume", f"{folder}:/etc/guard:ro", name, "--"]
    command = ["buildah", "--storage-driver", "vfs", "run", *given, *facts["Entrypoint"], *facts["Cmd"]]
    with (folder.parent / "guard.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def mounted(folder: Path, triton: Triton) -> dict[str, int]:
    """Lay out a policy that rejects, and what it names, for any user to read: the ports."""
    ports = dict(zip(("address", "http_address", "admin_address"), free_ports(3), strict=True))
    store.save(digits_profile(), folder / "profile")
    shutil.copy(digits.onnx_file(), folder / "digits.onnx")
    model = {"profile": "profile", "model": "digits.onnx", "mode": "enforce", "false_positive_rate": 0.05}
    policy = {
        "upstream": {"address": triton.address},
        "listen": {name: f"127.0.0.1:{port}" for name, port in ports.items()},
        "models": {"digits": model | {"screening_budget_s": 30.0}},
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return ports


def ready(port: int) -> bool:
    """Whether it says so."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def test_the_image_guards(environment: dict[str, str], tmp_path: Path) -> None:
    """It is built, starts, finds a real Triton, and then lets benign inputs through and attacks not."""
    built = subprocess.run(
        [ROOT / "deploy" / "image" / "build.sh"], env=environment, check=False, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    assert f"guard {__version__}\nmade guard:{__version__}" in built.stdout
    check_what_it_is_made_of(environment)
    if environment.get("PUSH"):  # `make` exports it empty
        check_the_digest(environment["PUSH"], built.stdout)
    folder = tmp_path / "guard"
    folder.mkdir()
    triton = Triton(tmp_path, name="digits", onnx=digits.onnx_file())
    triton.start()
    try:
        ports = mounted(folder, triton)
        with container(environment, folder) as process:
            wait_for(lambda: ready(ports["admin_address"]) or process.poll() is not None, within_s=120.0)
            assert process.poll() is None, (tmp_path / "guard.log").read_text()[-3000:]
            test, labels = digits.load_data().test
            attacks = digits.attack(digits.trained_network(), test, labels)
            benign, attacked = (_statuses(ports["http_address"], each[:60]) for each in (test, attacks))
    finally:
        triton.stop()
    # Of a profile of few samples, p-values of attacks come in few steps; at 5 % nine in ten are below.
    assert benign[200] > 0.8 * benign.total(), benign
    assert attacked[403] > 0.5 * attacked.total(), attacked


def check_what_it_is_made_of(environment: dict[str, str]) -> None:
    """The bill of materials, which the build has held against its schema, names what is installed, and nothing else."""
    name = buildah(environment, "from", "--pull-never", f"localhost/guard:{__version__}")
    run = ("run", "--isolation", "chroot", name, "--")
    bill = json.loads(buildah(environment, *run, "cat", "/opt/guard/sbom.cdx.json"))
    installed = json.loads(buildah(environment, *run, "/opt/guard/bin/python", "-c", INSTALLED))
    buildah(environment, "rm", name)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    named = {each["name"]: each["version"] for each in bill["components"]}
    assert named == installed
    assert named["guard-sidecar"] == __version__
    assert {"torch", "onnxruntime", "grpcio"} <= named.keys()


def check_the_digest(push: str, said: str) -> None:
    """What the build wrote and said is the digest by which the registry has the image."""
    address, _, repository = push.partition("/")
    asked = urllib.request.Request(
        f"http://{address}/v2/{repository}/manifests/{__version__}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - http, as it says above
        digest = answer.headers["Docker-Content-Digest"]
        assert digest == f"sha256:{hashlib.sha256(answer.read()).hexdigest()}"
    assert DIGEST.read_text() == digest
    assert yaml.safe_load(said[said.index("\nimages:\n") :])["images"] == [
        {"name": "guard", "newName": push, "digest": digest}
    ]
    DIGEST.unlink()


def _statuses(port: int, images: np.ndarray) -> Counter[int]:
    with sending(port, images, ["127.0.0.20"], pace_s=0.05) as statuses:
        wait_for(lambda: statuses.total() >= len(images), within_s=300.0)
    return statuses
