"""Runs `guard` in forks of one process that has imported already what commands import, which takes each seconds.

Run as a script it is that process: it reads orders, a line of JSON each, and answers with exit codes. A fork has the
order's arguments, folder and files for its output, and ends as the console script of `guard` would.
"""

from __future__ import annotations

import gc
import json
import os
import select
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

IMPORTED = (
    "cv2",
    "guard.cli",
    "matplotlib.backends.backend_agg",
    "onnx",
    "pyarrow",
    "scipy.optimize",
    "scipy.special",
    "sklearn.datasets",
    "torch",
)
"""Not ONNX Runtime, which has a thread of its own and waits for it at the end: a fork has no such thread. Not gRPC, for
which `guard` sets an environment variable before it is imported.
"""

_START_S = 120.0


class Forks:
    """Runs commands one after the other, as `tests.support.command.guard` does."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],  # what stands beside this file is nothing to import
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer(_START_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def guard(self, *arguments: object, cwd: Path, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        words = [str(each) for each in arguments]
        with tempfile.TemporaryDirectory() as folder:
            out, error = Path(folder) / "out", Path(folder) / "error"
            order = {"arguments": words, "cwd": str(cwd), "out": str(out), "error": str(error)}
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            code = self._answer(timeout_s)
            return subprocess.CompletedProcess(["guard", *words], code, out.read_text(), error.read_text())

    def _answer(self, timeout_s: float) -> int:
        """Wait for a line.

        Raises:
            AssertionError: it did not come in time, or the process has ended.
        """
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if readable else ""
        assert line, f"no answer in {timeout_s:g} s"
        return int(line)


def _orders() -> dict[str, Any] | None:
    """Fork for each order: the order, in a fork; None at the end, in the process itself."""
    _tell(0)
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            order: dict[str, Any] = json.loads(line)
            return order
        _tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return None


def _tell(code: int) -> None:
    sys.stdout.write(f"{code}\n")
    sys.stdout.flush()


def _become(order: dict[str, Any]) -> None:
    """Take over what a new process would begin with."""
    made = os.O_WRONLY | os.O_CREAT
    for number, (path, flags) in enumerate(((os.devnull, os.O_RDONLY), (order["out"], made), (order["error"], made))):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(order["cwd"])
    sys.argv = ["guard", *order["arguments"]]


if __name__ == "__main__":
    for module in IMPORTED:
        import_module(module)
    gc.collect()
    gc.freeze()  # or each fork would look through, and copy, all that was imported
    if (ordered := _orders()) is not None:
        _become(ordered)
        sys.exit(import_module("guard.cli").main())
