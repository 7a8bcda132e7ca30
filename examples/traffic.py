"""Clean and attacked samples, sent through Guard, and what became of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.prepare import MODEL
from guard.client import AdversarialInputRejected, Client, InputRejected


def show(guard: str, samples: Path, console: Console) -> None:
    """Send all samples to Guard's gRPC address, one by one, and print a table."""
    images = np.load(samples)
    table = Table("samples", "sent", "answered", "rejected")
    with Client(guard, require_verdict=True) as client:
        for kind in ("clean", "attacked"):
            outcomes = [_outcome(client, image[None]) for image in images[kind]]
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
