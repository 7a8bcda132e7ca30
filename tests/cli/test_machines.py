"""What commands tell machines: JSON on standard output, exit codes, completions."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guard import errors
from guard.cli.doctor import PROBLEMS_FOUND
from guard.cli.words import EXIT_CODES
from guard.config_file import load_settings
from guard.errors import ConfigError, DataError, GuardError
from guard.profile import store
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
