"""Calibration and evaluation on a local Ray cluster, with the results of one machine.

Ray comes from `.venv-ray`, which `make servers` makes, where it is not in the environment itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guard.errors import ConfigError, EnvironmentProblem
from guard.offline import spread
from guard.offline.calibrate import calibrate
from guard.offline.evaluate.kept import Kept
from guard.offline.evaluate.screening import screen
from guard.offline.options import Options
from guard.profile.profile import Profile
from guard.values import Evidence, Screening
from tests.support import digits
from tests.support.ports import free_ports
from tests.support.profiles import digits_backend, plain_profile

PACKAGES = Path(__file__).parents[2] / ".venv-ray" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
PLAIN = Options(network=False, conditions=())


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two processes on this machine.

    A command of its own starts it: Ray forks its processes, and in this one gRPC's threads of other tests are running.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.path", [*sys.path, str(PACKAGES)])
        patch.setenv("PYTHONPATH", str(PACKAGES), prepend=os.pathsep)  # for the cluster's own processes
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or it wants a token from the home directory
        pytest.importorskip("ray", reason="Ray is not installed: `make servers` installs it")
        port, client, agent = free_ports(3)
        ports = [f"--port={port}", f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
        ports += ["--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1"]
        options = ["--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", "--block"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *ports, *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                _until_listening(port, process)
                yield f"127.0.0.1:{port}"
            finally:
                process.terminate()


def _until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    ends_s = time.monotonic() + 120
    while time.monotonic() < ends_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    pytest.fail("Ray did not start")


def said(screening: Screening) -> list[object]:
    """What was found of an input, but for how long it took.

    What is charged for it beyond that depends on which inputs share a batch, on one machine too.
    """
    found = [(f.detector, f.score, f.evaluations) for f in screening.findings if isinstance(f, Evidence)]
    return [screening.label, *found]


def test_scores_are_the_same(cluster: str) -> None:
    """Each input gets the label and scores on the cluster that it gets here, bit for bit, after as many evaluations."""
    profile, images = plain_profile(), digits.load_data().test[0]
    found = []
    for where in (None, cluster):
        backend = digits_backend()
        given = (backend, profile.detectors, profile.files)
        with spread.screening(*given, secret=b"the same", ray=where) as screens:
            found.append([said(each) for each in screens(images)])
        backend.close()
    assert len(found[0]) == len(images)
    assert found[0] == found[1]


def test_calibration_is_the_same(cluster: str) -> None:
    """A profile that was calibrated on the cluster is that of this machine, but for what was timed."""
    samples = digits.load_data().calibration[0][:400]
    here, there = (calibrate(digits_backend(), samples, replace(PLAIN, ray=where)) for where in (None, cluster))
    for mine, theirs in ((here.reference, there.reference), (here.calibration, there.calibration)):
        assert mine.labels.tobytes() == theirs.labels.tobytes()
        assert {n: s.tobytes() for n, s in mine.scores.items()} == {n: s.tobytes() for n, s in theirs.scores.items()}
    assert here.detectors == there.detectors
    assert (here.files, here.query_radii) == (there.files, there.query_radii)
    assert np.array_equal(here.sample_hashes, there.sample_hashes)


def test_evaluation_is_the_same(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the evaluation finds of images is the same."""
    profile: Profile = plain_profile()
    images = np.round(digits.load_data().test[0] * 255).astype(np.uint8)
    found = []
    for where in (None, cluster):
        backend, kept = digits_backend(), Kept(tmp_path_factory.mktemp("kept"))
        with screen(profile, backend, (0.05,), kept, 0, ray=where) as screening:
            found.append(screening(images))
        backend.close()
    here, there = found
    for name in ("labels", "p_values", "by_detector", "judged"):
        assert getattr(here, name).tobytes() == getattr(there, name).tobytes(), name


def test_another_version_is_refused() -> None:
    """A machine of the cluster that has other versions would find something else."""
    backend = digits_backend()
    kit = spread.Kit(backend.content, backend.info, 8, backend.providers, (), {}, b"", versions=("0", "0", "0"))
    backend.close()
    with pytest.raises(ConfigError, match="install the same there"):
        spread.Worker(kit)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is not installed the message says which extra brings it."""
    monkeypatch.setattr("guard.environment._is_installed", lambda _name: False)
    with (
        pytest.raises(EnvironmentProblem, match=r"pip install '\.\[ray\]'"),
        spread.screening(digits_backend(), (), {}, secret=b"", ray="local"),
    ):
        pass


@pytest.mark.parametrize("address", ["{free}", "ray://{free}", "127.0.0.1:99999"])
def test_nobody_there(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Where no cluster is that is told in seconds. Ray, which would try for minutes, is not even imported."""
    monkeypatch.setattr("guard.environment._is_installed", lambda _name: True)
    monkeypatch.setitem(sys.modules, "ray", None)
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        where = address.format(free=f"127.0.0.1:{bound.getsockname()[1]}")
        with (
            pytest.raises(ConfigError, match=f"--ray {where}: there is no cluster that answers"),
            spread.reached(digits_backend(), where),
        ):
            pass
