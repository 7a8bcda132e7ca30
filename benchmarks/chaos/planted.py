"""Guard with a fault in it: `python -m benchmarks.chaos.planted FILE serve ...` is `guard serve ...`.

The first word in FILE, read again at every item, says which: `raise`, `nan` or `hang` in a detector, `die` of the
engine's thread, `leak` of a quarter of a megabyte an item; anything else is none. A second word is the seconds after
which an engine is said to hang.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

from guard.cli import main
from guard.screen import engine
from guard.screen.confidence import ConfidenceTrial
from guard.values import Evidence

LEAK_BYTES: Final = 256 * 1024
_leaked: list[bytearray] = []


class _Dies(BaseException):
    """No detector's fault: nothing on the way expects it."""


def plant(file: Path) -> None:
    """Have the confidence detector, or the engine, do what the file says."""
    ask, finding, admit = ConfidenceTrial.ask, ConfidenceTrial.finding, engine.Engine._admit  # noqa: SLF001 - harm

    def planted_ask(self: ConfidenceTrial) -> Any:
        _suffer(file)
        return ask(self)

    def planted_finding(self: ConfidenceTrial, duration_s: float = 0.0) -> Any:
        if _words(file)[:1] == ["nan"]:
            return Evidence(detector=self._name, score=float("nan"), evaluations=1, duration_s=duration_s)
        return finding(self, duration_s)

    def planted_admit(self: engine.Engine) -> Any:
        admitted = admit(self)
        if admitted is not None and _words(file)[:1] == ["die"]:
            raise _Dies
        return admitted

    ConfidenceTrial.ask, ConfidenceTrial.finding = planted_ask, planted_finding  # type: ignore[method-assign]
    engine.Engine._admit = planted_admit  # type: ignore[method-assign]  # noqa: SLF001 - as above


def _suffer(file: Path) -> None:
    """What happens to a detector on an item."""
    match _words(file):
        case ["raise"]:
            raise RuntimeError("planted")
        case ["hang", after_s]:
            engine.HANG_S = float(after_s)
            while _words(file)[:1] == ["hang"]:
                time.sleep(0.05)
        case ["leak"]:
            _leaked.append(bytearray(b"\1") * LEAK_BYTES)


def _words(file: Path) -> list[str]:
    return file.read_text().split()


if __name__ == "__main__":
    plant(Path(sys.argv.pop(1)))
    main()
