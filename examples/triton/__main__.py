"""Start it: python -m examples.triton."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.prepare import FOLDER, MODEL, prepare
from examples.triton import servers
from guard.client import AdversarialInputRejected, Client, InputRejected

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
    samples = np.load(files.samples)
    with servers.triton(asked.triton, asked.dir, files) as upstream, servers.guard(upstream, asked.dir, files) as guard:
        console.print(f"Triton serves {MODEL} on {upstream}, and Guard stands in front of it on {guard}.")
        table = Table("samples", "sent", "answered", "rejected")
        with Client(guard, require_verdict=True) as client:
            for kind in ("clean", "attacked"):
                outcomes = [_outcome(client, image[None]) for image in samples[kind]]
                counts = [outcomes.count(outcome) for outcome in ("answered", "rejected")]
                table.add_row(kind, *map(str, [len(outcomes), *counts]))
        console.print(table)


def _outcome(client: Client, image: np.ndarray) -> str:
    try:
        client.infer(MODEL, [client.tensor("input", image)])
    except AdversarialInputRejected:
        return "rejected"
    except InputRejected as error:
        return str(error.verdict)
    return "answered"


if __name__ == "__main__":
    main()
