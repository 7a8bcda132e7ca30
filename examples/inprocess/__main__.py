"""Start it: python -m examples.inprocess."""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxruntime
import uvicorn
from rich.console import Console

from examples.inprocess.app import App
from examples.prepare import FOLDER, prepare
from guard.inprocess import Guard


def main() -> None:
    """Prepare, load, and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m examples.inprocess", description=__doc__)
    parser.add_argument("--dir", type=Path, default=FOLDER, help="where the model and its profile go")
    parser.add_argument("--port", type=int, default=8080)
    asked = parser.parse_args()
    files = prepare(asked.dir, Console())
    session = onnxruntime.InferenceSession(str(files.model), providers=["CPUExecutionProvider"])
    with Guard(files.profile, files.model, false_positive_rate=0.05) as guard:
        uvicorn.run(App(guard, session), host="127.0.0.1", port=asked.port, lifespan="off", log_level="info")


if __name__ == "__main__":
    main()
