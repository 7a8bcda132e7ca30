"""Sends the inputs of an npz file to a server that speaks the v2 protocol, one after the other, until it is stopped.

    python -m examples.replay guard-demo/attacks.npz

It is how a dashboard or an alert is tried: Guard's marks on the answers are counted and printed.
"""

from __future__ import annotations

import argparse
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guard.client import Client, InputRejected


def verdicts(address: str, model: str, images: npt.NDArray[np.float32]) -> Iterator[str]:
    """Send images one by one, for ever, and yield what Guard says of each."""
    with Client(f"grpc://{address}") as client:
        for image in itertools.cycle(images):
            try:
                yield str(client.infer(model, [client.tensor("input", image[None])]).verdict)
            except InputRejected as error:
                yield f"{error.verdict}, rejected"


def main() -> None:
    """Send what is in the file, and say every ten seconds what came of it."""
    parser = argparse.ArgumentParser(description="Send the inputs of an npz file until stopped.")
    parser.add_argument("file", type=Path, help="an npz with `inputs`, (n, *shape)")
    parser.add_argument("--address", default="127.0.0.1:8011", help="of Guard's gRPC endpoint")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--pace", type=float, default=0.25, help="seconds between two inputs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long")
    chosen = parser.parse_args()
    seen, began_s = Counter[str](), time.monotonic()
    told_s = began_s - 9  # a first line soon, so that who waits sees that it works
    for verdict in verdicts(chosen.address, chosen.model, np.load(chosen.file)["inputs"]):
        seen[verdict] += 1
        now_s = time.monotonic()
        if now_s - told_s > 10 or now_s - began_s > chosen.seconds:  # noqa: PLR2004 - seconds between two lines
            told_s = now_s
            print(f"{now_s - began_s:.0f} s: {dict(seen)}", flush=True)  # noqa: T201 - its answer
        if now_s - began_s > chosen.seconds:
            break
        threading.Event().wait(chosen.pace)


if __name__ == "__main__":
    main()
