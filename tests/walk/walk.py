"""Types the lines of the documents into a shell, in a copy of the repository: `python -m tests.walk.walk FOLDER`.

The folder has what a reader has by then: a copy named `clone`, and in it the files that the pages presume. A server of
the model is on port 8001, as the pages say. All ports are those of the pages, so this wants a network of its own:
`unshare --net` gives one. What became of each line is written to `walked.json` in the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from guard.background import LoopThread
from guard.embedded import EmbeddedServer
from tests.walk.documents import block
from tests.walk.route import ROUTE, File, Serving, Step, lines

CLONE: Final = "clone"
WALKED: Final = "walked.json"
STAND_INS: Final = "stand-ins.json"
PATIENCE_S: Final = 300.0
ONLY_LOOKS: Final = {"PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
"""With these pip finds out whether it could install something from what is here, with what is here, and ends.

"0" is what switches isolation off: pip takes the variable for the value of an option that says no already.
"""
_AGAIN_S = 0.2
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1
_INTERFACE = struct.Struct("16sh14x")


@dataclass(frozen=True, slots=True)
class Walked:
    """What became of a line: what it printed, how long it took, and what was not as expected."""

    output: str = ""
    seconds: float = 0.0
    problem: str = ""
    missing: str = ""


class Walker:
    """Types lines in a folder. `stand_ins` are what readers put in place of names in the documents."""

    def __init__(self, folder: Path, environment: Mapping[str, str], stand_ins: Mapping[str, str]) -> None:
        self.walked: dict[str, Walked] = {}
        self._folder = folder
        self._environment = dict(environment)
        self._stand_ins = stand_ins
        self._typed = 0

    def walk(self, steps: tuple[Step | Serving | File, ...]) -> None:
        """Type them one after the other; who comes behind one that fails is typed all the same."""
        for step in steps:
            if isinstance(step, File):
                (self._folder / step.path).write_text(block(step.document, step.begins))
            elif step.needs and not (shutil.which(step.needs) or (self._folder / step.needs).exists()):
                self.walked[step.line] = Walked(missing=step.needs)
                if isinstance(step, Serving):
                    self.walk(step.meanwhile)
            elif isinstance(step, Step):
                self.walked[step.line] = self._step(step)
            else:
                self._serving(step)

    def _step(self, step: Step) -> Walked:
        began_s = time.monotonic()
        while True:
            process, log = self._start(step.line)
            code = _ended(process)
            printed, took_s = log.read_text(errors="replace"), time.monotonic() - began_s
            said = re.search(step.says, printed, re.MULTILINE) is not None
            if said or not step.again or took_s > PATIENCE_S:
                break
            time.sleep(_AGAIN_S)
        problems = [
            *([f"it ended with {code}"] if code != step.code else []),
            *([] if said else [f"it does not say {step.says!r}"]),
            *([f"it left no {step.leaves}"] if step.leaves and not (self._folder / step.leaves).exists() else []),
        ]
        return Walked(printed, took_s, "; ".join(problems))

    def _serving(self, step: Serving) -> None:
        """Start it, type the others, and stop it as Ctrl-C does: everything that the terminal runs hears it."""
        began_s, problem = time.monotonic(), ""
        process, log = self._start(step.line)
        while not re.search(step.says, log.read_text(errors="replace"), re.MULTILINE):
            if process.poll() is not None or time.monotonic() - began_s > PATIENCE_S:
                problem = f"it does not say {step.says!r}"
                break
            time.sleep(_AGAIN_S)
        took_s = time.monotonic() - began_s
        self.walked[step.line] = Walked()  # in its place
        if problem:
            self.walked |= dict.fromkeys(lines(step.meanwhile), Walked(problem=f"{step.line} does not serve"))
        else:
            self.walk(step.meanwhile)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        code = _ended(process)
        if code and not step.killed and not problem:
            problem = f"it ended with {code}"
        self.walked[step.line] = Walked(log.read_text(errors="replace"), took_s, problem)

    def _start(self, line: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Type it: where its output goes. The shell stays, as a reader's does: a program may ask which one it is."""
        for name, stand_in in self._stand_ins.items():
            line = re.sub(rf"(?<!\S){re.escape(name)}(?!\S)", stand_in, line)
        self._typed += 1
        log = self._folder.parent / f"{self._typed}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"set -o pipefail\n{line}\nexit $?"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, log


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end, for long; whatever goes on then is killed."""
    try:
        return process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def loopback_up() -> None:
    """Switch the loopback interface on: in a new network it is off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = _INTERFACE.pack(b"lo", 0)
        _, flags = _INTERFACE.unpack(fcntl.ioctl(any_socket, _GET_FLAGS, asked))
        if not flags & _UP:
            fcntl.ioctl(any_socket, _SET_FLAGS, _INTERFACE.pack(b"lo", flags | _UP))


def main(folder: Path) -> None:
    """Walk, and write down what became of each line."""
    loopback_up()
    clone = folder / CLONE
    home = folder / "home"
    home.mkdir()
    environment = {
        **os.environ,
        "COLUMNS": "300",
        "HOME": str(home),
        "PATH": f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        **ONLY_LOOKS,
    }
    walker = Walker(clone, environment, json.loads((folder / STAND_INS).read_text()))
    server = EmbeddedServer({"digits": clone / "model.onnx"}, address="127.0.0.1:8001")
    with LoopThread() as loop:
        loop.run(server.start())
        try:
            walker.walk(ROUTE)
        finally:
            loop.run(server.stop(1.0))
    found = {line: asdict(walked) for line, walked in walker.walked.items()}
    (folder / WALKED).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
