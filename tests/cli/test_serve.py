"""`guard serve` as a process: what it says, answers and exports, and how it ends."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.peer import wait_until_serving
from tests.support import digits
from tests.support.command import Running, guard
from tests.support.loop import LoopThread
from tests.support.ports import free_address
from tests.support.sidecars import client_of, embedded
from tests.support.waiting import PATIENCE_S, wait_for

FREE = ("--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0")
STARTED = r"Guard serves gRPC on port (\d+), metrics and health on port (\d+)"
STOP_S = 4.0  # less than the grace that running calls are given


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of a page of the admin port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wait_until_ready(port: int) -> None:
    """Wait until /readyz says 200.

    Raises:
        AssertionError: it did not in time.
    """
    wait_for(lambda: get(port, "/readyz")[0] == 200)


def started(running: Running) -> tuple[int, int]:
    """Wait for the ports of a Guard that serves: gRPC, admin."""
    ports = running.wait_for(STARTED)
    return int(ports[1]), int(ports[2])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_embedded_with_a_profile(folder: Path, tmp_path: Path, signum: signal.Signals) -> None:
    """A model file and its profile are all it takes to serve and screen; a signal ends it at once with exit code 0."""
    model, profile = folder / "digits.onnx", folder / "profile"
    arguments = ("--embedded", model, "--profile", profile, *FREE, "--log-format", "json", "--log-level", "debug")
    with Running("serve", *arguments, cwd=tmp_path) as running:
        grpc_port, admin_port = started(running)
        assert "guards digits (flag at 0.05 false positives" in running.output
        wait_until_ready(admin_port)
        wait_until_serving(f"127.0.0.1:{grpc_port}")
        with client_of(grpc_port) as client:
            seen = [client.ask("digits", image[None]) for image in digits.load_data().test[0][:10]]
            assert {each.status for each in seen} == {"OK"}
            assert [each.verdict for each in seen].count("clean") >= 7
            refused = client.ask("digit", digits.load_data().test[0][:1])
            assert refused.status == "PERMISSION_DENIED"
            assert running.end(signum, within_s=STOP_S) == 0  # the client's open connection doesn't hold it up
    events = [json.loads(line) for line in running.log.splitlines()]
    decisions = [event for event in events if event["event"] == "decision"]
    assert [event["verdict"] for event in decisions] == [each.verdict for each in seen]
    (refusal,) = (event for event in events if event["event"] == "request refused")
    assert refused.message.endswith(f"[guard_id={refusal['decision_id']}]")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        ("--config gone.yaml", 2, "gone.yaml:1: the file can't be read"),
        ("--embedded digits.onnx --profile empty", 5, "empty holds no profile"),
        ("--embedded digits.onnx --admin-address 127.0.0.1:0 --address {busy}", 2, "can't listen on {busy}"),
    ],
)
def test_a_failed_start_in_a_log_for_machines(
    folder: Path, busy: str, arguments: str, exit_code: int, says: str
) -> None:
    """With --log-format json what keeps Guard from serving is a line of the log like all others."""
    options = arguments.format(busy=busy).split()
    ended = guard("serve", "--log-format", "json", *options, cwd=folder)
    assert ended.returncode == exit_code
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [(event["level"], event["event"]) for event in events] == [("critical", "guard can't serve")]
    assert says.format(busy=busy) in events[0]["problem"]


def test_embedded_without_a_profile(folder: Path, tmp_path: Path) -> None:
    """Without a profile requests pass unscreened; the command says so, and what to do, and counts them.

    With --console it says where the console is.
    """
    with Running("serve", "--embedded", folder / "digits.onnx", *FREE, "--console", cwd=tmp_path) as running:
        grpc_port, admin_port = started(running)
        assert f"the console at http://127.0.0.1:{admin_port}/console" in running.output
        status, page = get(admin_port, "/console")
        assert (status, "What Guard does now" in page) == (200, True)
        running.wait_for("Nothing is screened without a profile, only counted")
        running.wait_for(f"guard calibrate --model {folder / 'digits.onnx'} --data .* --out")
        wait_until_ready(admin_port)
        with client_of(grpc_port) as client:
            seen = client.ask("digits", digits.load_data().test[0][:1])
        assert (seen.status, seen.verdict) == ("OK", "unscreened")
        _, metrics = get(admin_port, "/metrics")
        assert 'guard_unscreened_requests_total{model="other",reason="unlisted_model"} 1.0' in metrics
        assert running.end(signal.SIGTERM, within_s=STOP_S) == 0


def test_upstream_that_comes_up_later(folder: Path, tmp_path: Path) -> None:
    """Guard starts without its upstream: live, not ready and saying why, UNAVAILABLE; it is ready when that comes."""
    upstream = free_address()
    listen = 'listen: {address: "127.0.0.1:0", admin_address: "127.0.0.1:0"}'
    models = (
        (folder / "policy.yaml")
        .read_text()
        .replace("profile: ", f"profile: {folder}/")
        .replace("model: ", f"model: {folder}/")
    )
    (tmp_path / "policy.yaml").write_text(f"upstream: {{address: {upstream}}}\n{listen}\n{models}")
    image = digits.load_data().test[0][:1]
    with LoopThread() as loop, Running("serve", "--config", "policy.yaml", cwd=tmp_path) as running:
        grpc_port, admin_port = started(running)
        assert get(admin_port, "/livez") == (200, "live\n")
        status, reasons = get(admin_port, "/readyz")
        assert status == 503
        assert reasons.startswith("digits: ")
        with client_of(grpc_port) as client:
            seen = client.ask("digits", image)
            assert (seen.status, seen.verdict) == ("UNAVAILABLE", "unscreened")
            with embedded(loop, {"digits": folder / "digits.onnx"}, address=upstream):
                wait_until_ready(admin_port)
                assert client.ask("digits", image).verdict in {"clean", "adversarial"}
        assert f"no inference server answers at {upstream}" in running.log
        assert running.end(signal.SIGTERM, within_s=STOP_S) == 0
