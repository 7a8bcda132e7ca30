"""The examples, started by their commands. tests/walk starts them as `make` does, and reads what they print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.triton.__main__ import main
from tests.examples.commands import ROOT, command

START_S = 120.0


def post(url: str, document: Any) -> tuple[int, dict[str, Any]]:
    """What an HTTP server answers."""
    request = urllib.request.Request(url, json.dumps(document).encode())  # noqa: S310 - our own address
    try:
        with urllib.request.urlopen(request, timeout=60.0) as response:  # noqa: S310 - as above
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_inprocess(folder: Path, tmp_path: Path) -> None:
    """The server in Python classifies digits, rejects attacked ones with an id, and exports Guard's metrics."""
    samples = np.load(folder / "samples.npz")
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command("inprocess", "--dir", folder, "--port", 0), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        url = listening(process, log)
        told = {kind: [post(f"{url}/classify", {"pixels": x[0].tolist()}) for x in samples[kind]] for kind in samples}
        rejected = {kind: [answer for status, answer in answers if status == 422] for kind, answers in told.items()}
        assert len(rejected["clean"]) <= 5
        assert len(rejected["attacked"]) > len(rejected["clean"])
        assert {(answer["verdict"], len(answer["id"])) for answer in rejected["attacked"]} == {("adversarial", 32)}
        assert all(answer["label"] in range(10) for status, answer in told["clean"] if status == 200)
        assert post(f"{url}/classify", {"pixels": [[1]]})[0] == 400
        with urllib.request.urlopen(f"{url}/metrics", timeout=60.0) as response:  # noqa: S310 - as above
            assert b'guard_items_total{model="model",verdict="clean"}' in response.read()
    finally:
        process.terminate()
        process.wait(60.0)


def listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the server says where it listens."""
    ends_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < ends_s:
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_triton_is_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Triton the example says what installs it."""
    monkeypatch.setattr(sys, "argv", ["triton", "--dir", str(folder), "--triton", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="run `make triton`, which installs it, or name yours with --triton"):
        main()
