"""Start it: python -m examples.triton."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from examples import children, traffic
from examples.prepare import FOLDER, MODEL, prepare
from examples.triton import server

TRITON = Path(".venv-triton/bin/triton")


def main() -> None:
    """Serve digits with Triton behind Guard, and send clean and attacked ones."""
    parser = argparse.ArgumentParser(prog="python -m examples.triton", description=__doc__)
    parser.add_argument("--dir", type=Path, default=FOLDER, help="where the model and its profile go")
    parser.add_argument("--triton", type=Path, default=TRITON, help="tritonserver, or what starts it")
    asked = parser.parse_args()
    if not asked.triton.exists():
        sys.exit(f"there is no {asked.triton}: run `make triton`, which installs it, or name yours with --triton")
    console = Console()
    files = prepare(asked.dir, console)
    with server.triton(asked.triton, asked.dir, files) as upstream, children.guard(upstream, asked.dir, files) as guard:
        console.print(f"Triton serves {MODEL} on {upstream}, and Guard stands in front of it on {guard}.")
        traffic.show(guard, files.samples, console)


if __name__ == "__main__":
    main()
