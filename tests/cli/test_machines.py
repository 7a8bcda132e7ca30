"""What commands tell machines: JSON on standard output, exit codes, completions."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from guard import errors
from guard.audit.records import records
from guard.audit.segments import segments_of
from guard.cli.doctor import PROBLEMS_FOUND
from guard.cli.words import EXIT_CODES
from guard.config_file import load_settings
from guard.errors import ConfigError, DataError, GuardError
from guard.profile import store
from tests.audit.parts import written
from tests.support.command import Running, guard

COMMANDS = Path(__file__).parents[2] / "docs" / "commands.md"


def told(*arguments: object, cwd: Path, code: int = 0) -> Any:
    """What a command prints with --json."""
    ended = guard(*arguments, "--json", cwd=cwd)
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def test_a_profile(folder: Path) -> None:
    """A profile's model, detectors with their benign scores, and rates are told."""
    profile = store.load(folder / "profile")
    held = told("profile", "show", "profile", cwd=folder)
    assert held["model"]["fingerprint"] == profile.model.fingerprint
    assert [each["name"] for each in held["detectors"]] == [each.name for each in profile.detectors]
    benign = {each["name"]: each["benign_scores"] for each in held["detectors"]}
    assert all(benign[name]["low"] <= benign[name]["median"] <= benign[name]["high"] for name in profile.scoring)
    rates = {each["rate"]: each["true_rate"] for each in held["rates"]}
    assert rates[0.05][0] < 0.05 < rates[0.05][1]
    assert rates[0.001] is None


def test_calibrating(folder: Path, tmp_path: Path) -> None:
    """Calibration tells the profile that it wrote, and says how far it is on standard error."""
    options = ("--model", folder / "digits.onnx", "--data", folder / "images", "--no-network", "--no-occlusion")
    ended = guard("calibrate", *options, "--out", "made", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == told("profile", "show", "made", cwd=tmp_path)
    assert "The profile is in made" in ended.stderr


def test_a_policy(folder: Path) -> None:
    """A good policy is told with all its defaults; of a bad one each mistake, as the person would read it."""
    good = told("check-config", "policy.yaml", cwd=folder)
    assert good["mistakes"] == []
    assert good["settings"] == load_settings(folder / "policy.yaml").model_dump(mode="json")
    bad = told("check-config", "bad.yaml", cwd=folder, code=ConfigError.exit_code)
    person = guard("check-config", "bad.yaml", cwd=folder).stderr
    assert bad["mistakes"] == person.removeprefix("guard: ").splitlines()
    assert len(bad["mistakes"]) == 6


def test_pseudonyms(folder: Path) -> None:
    """A pseudonym is told with the key that it is made with."""
    (folder / "names.key").write_bytes(b"k" * 32)
    said = told("audit", "pseudonym", "ipv4:10.0.0.7", "--key", "names.key", cwd=folder)
    printed = guard("audit", "pseudonym", "ipv4:10.0.0.7", "--key", "names.key", cwd=folder).stdout
    assert printed == f"{said['pseudonym']} (key {said['key']})\n"


def test_an_audit_log(tmp_path: Path) -> None:
    """What is found of a log is told, a record as it is in the log, and how many went into a table."""
    written(tmp_path / "log", "a", "b")
    found = told("audit", "verify", "log", cwd=tmp_path)
    assert (found["problems"], found["segments"], found["first"], found["last"]["sequence"]) == ([], 1, 1, 2)
    assert (found["heads"], found["head_found"]) == (2, None)
    head = found["last"]["hash"]
    assert told("audit", "verify", "log", "--head", head, cwd=tmp_path)["head_found"] is True
    shown = told("audit", "show", "b", "log", cwd=tmp_path)
    assert shown == list(records(tmp_path / "log"))[1]
    exported = told("audit", "export", "log", "--out", "found.parquet", cwd=tmp_path)
    assert exported == {"file": "found.parquet", "records": pq.read_table(tmp_path / "found.parquet").num_rows}


def test_an_audit_log_that_was_changed(tmp_path: Path) -> None:
    """Where a log was changed, and that a head is not in it, is told with the exit code that people see too."""
    written(tmp_path / "log", "a", "b")
    cut = told("audit", "verify", "log", "--head", "0" * 64, cwd=tmp_path, code=DataError.exit_code)
    assert (cut["problems"], cut["head_found"]) == ([], False)
    (segment,) = segments_of(tmp_path / "log")
    segment.write_bytes(segment.read_bytes().replace(b'"reject"', b'"passed"', 1))
    (problem,) = told("audit", "verify", "log", cwd=tmp_path, code=DataError.exit_code)["problems"]
    assert (problem["segment"], problem["line"]) == (segment.name, 1)
    assert "the line was changed" in problem["what"]


def test_a_picture_beside_json(tmp_path: Path) -> None:
    """With --out too a record is told alone on standard output, and where the picture is on standard error."""
    written(tmp_path / "log", "a", captured=True)
    words = ("audit", "show", "a", "log", "--key", "log.captures", "--out", "input.png", "--json")
    ended = guard(*words, cwd=tmp_path)
    assert json.loads(ended.stdout)["id"] == "a"
    assert ended.stderr == "drawn in input.png\n"
    assert (tmp_path / "input.png").read_bytes().startswith(b"\x89PNG")


def every_error(kind: type[GuardError] = GuardError) -> set[type[GuardError]]:
    """The tree of errors."""
    return {kind}.union(*(every_error(each) for each in kind.__subclasses__() if each.__module__ == errors.__name__))


def test_exit_codes_are_documented() -> None:
    """The page of commands and the help of `guard` have each exit code, as the code has it."""
    raised = {each.exit_code for each in every_error() if each is not errors.SeveralProblems}
    assert raised | {0, PROBLEMS_FOUND, 130} == set(EXIT_CODES)
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", COMMANDS.read_text(), flags=re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES
    shown = " ".join(guard("--help", cwd=COMMANDS.parent).stdout.split())
    assert all(f"{code} {meaning}" in shown for code, meaning in EXIT_CODES.items())
    assert DataError.exit_code == 4


def test_ctrl_c(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C ends long work without a traceback, and with the exit code that shells know."""
    options = ["--model", folder / "digits.onnx", "--data", folder / "clean.npz", "--out", "made", "--no-network"]
    options += [word for kind in ("uniform", "shift_rotate", "contrast_brightness") for word in ("--mutation", kind)]
    with Running("calibrate", *options, cwd=tmp_path) as running:
        running.wait_for("measuring what noise")
        assert running.end(signal.SIGINT, within_s=60.0) == 130
        assert "Traceback" not in running.log


@pytest.mark.parametrize(("typed", "completed"), [("guard cal", "calibrate"), ("guard audit ver", "verify")])
def test_completion(typed: str, completed: str) -> None:
    """Bash completes commands with what `--show-completion` prints."""
    bash = shutil.which("bash")
    assert bash is not None
    words = typed.split()
    script = f"""
        eval "$(_GUARD_COMPLETE=source_bash guard)"
        COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}
        _guard_completion guard
        echo "${{COMPREPLY[@]}}"
    """
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": search}
    ran = subprocess.run([bash, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [completed]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(("typed", "completed"), [("guard cal", "calibrate"), ("guard audit ver", "verify")])
def test_completion_elsewhere(shell: str, typed: str, completed: str) -> None:
    """What zsh and fish ask `guard` for, as `--show-completion` has them do, is answered with the one that fits."""
    asked = {"_GUARD_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": typed}
    asked |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    command = Path(sys.executable).with_name("guard")
    ran = subprocess.run([command], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert re.findall(r"^(?:_arguments .*:\(\(\"|)(\w+)", ran.stdout, flags=re.MULTILINE) == [completed]


@pytest.mark.parametrize("command", ["audit verify log", "audit export log --out found.parquet"])
def test_progress_of_a_log(tmp_path: Path, command: str) -> None:
    """On a terminal a log that is read has a bar with the time left, and a machine's standard output has none of it."""
    written(tmp_path / "log", "a", "b")
    terminal, slave = pty.openpty()
    words = [Path(sys.executable).with_name("guard"), *command.split(), "--json"]
    with os.fdopen(terminal, "rb", buffering=0) as seen:
        environment = {**os.environ, "TERM": "xterm"}
        ran = subprocess.run(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=slave, check=True)
        os.close(slave)
        shown = re.sub(rb"\x1b\[[0-9;?]*\w", b"", seen.read(65536))  # without colours
        assert re.search(rb"reading the log .* \d+/\d+ \d+:\d\d:\d\d (-:--:--|\d+:\d\d:\d\d)", shown)
    assert json.loads(ran.stdout)
