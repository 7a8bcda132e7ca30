"""`guard serve` whose files are replaced while clients use it: a real process, real files, and nothing lost."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guard.profile.store import MANIFEST
from tests.cli.test_serve import STARTED, STOP_S, get, wait_until_ready
from tests.support import digits
from tests.support.command import Running, guard
from tests.support.loop import LoopThread
from tests.support.sidecars import client_of, embedded
from tests.support.waiting import wait_for

SWAPS = 20
LISTEN = 'listen: {address: "127.0.0.1:0", admin_address: "127.0.0.1:0"}\n'


def policy(upstream: str, swap: int) -> str:
    """The policy of a swap. Every fifth asks for another rate."""
    mode, rate = ("flag", "shadow")[swap % 2], (0.05, 0.04)[swap // 5 % 2]
    model = f"profile: profile, model: digits.onnx, mode: {mode}, false_positive_rate: {rate}, screening_budget_s: 60.0"
    return f"upstream: {{address: {upstream}}}\n{LISTEN}models:\n  digits: {{{model}}}\n"


@contextmanager
def traffic(port: int) -> Iterator[Counter[tuple[str, str | None]]]:
    """Two clients that ask without a pause; what they saw, by status and verdict."""
    seen: Counter[tuple[str, str | None]] = Counter()
    enough, images = threading.Event(), digits.load_data().test[0]

    def ask(first: int) -> None:
        with client_of(port) as client:
            place = first
            while not enough.is_set():
                answer = client.ask("digits", images[place : place + 1])
                seen[answer.status, answer.verdict] += 1
                place = (place + 2) % len(images)

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def wait_until_outcome(port: int, outcome: str, number: int) -> None:
    """Wait until the policy was read again so often with an outcome.

    Raises:
        AssertionError: it was not in time.
    """
    series = f'guard_config_reloads_total{{outcome="{outcome}"}} {number}.0\n'
    wait_for(lambda: series in get(port, "/metrics")[1])


@pytest.fixture
def mount(folder: Path, tmp_path: Path) -> Path:
    """A folder as Kubernetes mounts a ConfigMap: links to files in a folder that a link leads to."""
    shutil.copytree(folder / "profile", tmp_path / "profile")
    shutil.copy(folder / "digits.onnx", tmp_path)
    (tmp_path / "policy.yaml").symlink_to(Path("..data", "policy.yaml"))
    return tmp_path


def lead(mount: Path, name: str, text: str) -> None:
    """Lead the link elsewhere, in one step."""
    (mount / name).mkdir()
    (mount / name / "policy.yaml").write_text(text)
    (mount / "..new").symlink_to(name)
    (mount / "..new").rename(mount / "..data")


def calibrate_again(profile: Path, swap: int) -> None:
    """Put a profile in the place of another that differs from it in its date."""
    manifest = json.loads((profile / MANIFEST).read_text())
    manifest["provenance"]["created"] = f"2025-01-02T03:04:{swap:02}+00:00"
    (profile / "new").write_text(json.dumps(manifest))
    (profile / "new").rename(profile / MANIFEST)


def test_swaps_under_traffic(mount: Path) -> None:
    """Twenty swaps under steady traffic, by signal and unasked, lose no request and leave none unscreened.

    Every fifth has another profile and another rate, which take another engine.

    A bad policy in between is told as by `guard check-config`, and changes nothing.
    """
    with LoopThread() as loop, embedded(loop, {"digits": mount / "digits.onnx"}) as upstream:
        lead(mount, "..0", policy(upstream, 0))
        with Running("serve", "--config", "policy.yaml", "--log-format", "json", cwd=mount) as running:
            ports = running.wait_for(STARTED)
            grpc_port, admin_port = int(ports[1]), int(ports[2])
            wait_until_ready(admin_port)
            versions = {get(admin_port, "/policy")[1].splitlines()[0]}
            with traffic(grpc_port) as seen:
                for swap in range(1, SWAPS + 1):
                    if swap % 5 == 0:
                        calibrate_again(mount / "profile", swap)
                    lead(mount, f"..{swap}", policy(upstream, swap))
                    if swap % 10:  # the others are found unasked
                        running.send(signal.SIGHUP)
                    wait_until_outcome(admin_port, "swapped", swap)
                    versions.add(get(admin_port, "/policy")[1].splitlines()[0])
                lead(mount, "..bad", policy(upstream, SWAPS).replace("flag", "flog"))
                wait_until_outcome(admin_port, "refused", 1)
                checked = guard("check-config", "policy.yaml", cwd=mount)
            status, said = get(admin_port, "/policy")
            assert running.end(signal.SIGTERM, within_s=STOP_S) == 0
    assert {status for status, _ in seen} == {"OK"}, seen
    assert {verdict for _, verdict in seen} == {None, "clean", "adversarial"}, seen
    assert seen.total() > 10 * SWAPS
    assert len(versions) == 9  # two modes with each of four profiles, and one with the last
    assert (status, said.partition("another was refused:\n")[2]) == (200, checked.stderr.removeprefix("guard: "))
    events = [json.loads(line) for line in running.log.splitlines()]
    (refusal,) = (event for event in events if event["level"] == "error")
    assert refusal["problem"] == checked.stderr.removeprefix("guard: ").rstrip("\n")
