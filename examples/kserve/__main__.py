"""Start it: python -m examples.kserve."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from examples import children, traffic
from examples.prepare import FOLDER, MODEL, Files, prepare

PYTHON = Path(".venv-kserve/bin/python")
SERVER = Path(__file__).with_name("server.py")


def main() -> None:
    """Serve digits with KServe's Python server behind Guard, and send clean and attacked ones."""
    parser = argparse.ArgumentParser(prog="python -m examples.kserve", description=__doc__)
    parser.add_argument("--dir", type=Path, default=FOLDER, help="where the model and its profile go")
    parser.add_argument("--python", type=Path, default=PYTHON, help="of an environment that has kserve")
    asked = parser.parse_args()
    if not asked.python.exists():
        sys.exit(f"there is no {asked.python}: run `make .venv-kserve`, which makes it, or name yours with --python")
    console = Console()
    files = prepare(asked.dir, console)
    with _kserve(asked.python, asked.dir, files) as upstream, children.guard(upstream, asked.dir, files) as guard:
        console.print(f"KServe serves {MODEL} on {upstream}, and Guard stands in front of it on {guard}.")
        traffic.show(guard, files.samples, console)


@contextmanager
def _kserve(python: Path, folder: Path, files: Files) -> Iterator[str]:
    """KServe's server with the model: its gRPC address."""
    http_port, grpc_port = children.ports(2)
    command = [str(python), str(SERVER), str(http_port), str(grpc_port), str(files.model)]
    log = folder / "kserve.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with children.running(command, log, clean) as process:
        children.wait(f"http://127.0.0.1:{http_port}/v2/health/ready", process, log)
        yield f"127.0.0.1:{grpc_port}"


if __name__ == "__main__":
    main()
