"""The real `guard` command as a child process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_COMMAND = Path(sys.executable).with_name("guard")
_LOOK_S = 0.02
_WIDE = "300"  # columns, so that no message of the option parser is wrapped


def environment() -> dict[str, str]:
    """What the command runs in: messages are as wide as they like."""
    return {**os.environ, "COLUMNS": _WIDE}


def guard(
    *arguments: object, cwd: Path, timeout_s: float = 120.0, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, `before` it what it is started by."""
    return subprocess.run(
        [*before, _COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


class Running:
    """The command while it runs, in `cwd`; killed at the end unless it has ended. Its log goes to a file there."""

    def __init__(self, *arguments: object, cwd: Path) -> None:
        self._log = cwd / "stderr.txt"
        self.output = ""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [_COMMAND, *map(str, arguments)], cwd=cwd, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    @property
    def log(self) -> str:
        """What it wrote to standard error so far."""
        return self._log.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read its output until a line matches.

        Raises:
            AssertionError: it ended before.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"the command ended without {pattern!r}:\n{self.output}\n{self.log}")

    def send(self, signum: signal.Signals) -> None:
        """Send a signal that doesn't end it."""
        self._process.send_signal(signum)

    def end(self, signum: signal.Signals, *, within_s: float) -> int:
        """Send a signal and wait, for so many seconds in which the machine does not stand still: the exit code.

        Raises:
            AssertionError: it did not end in time.
        """
        self._process.send_signal(signum)
        for _ in range(round(within_s / _LOOK_S)):
            if self._process.poll() is not None:
                break
            time.sleep(_LOOK_S)
        assert self._process.poll() is not None, f"the command did not end in {within_s:g} s:\n{self.log}"
        assert self._process.stdout is not None
        self.output += self._process.stdout.read()
        return self._process.returncode
