"""Runs the GPU's noise kernel on the CPU, by Triton's interpreter: `python -m tests.screen.interpreted_kernel IN OUT`.

A process of its own, for the interpreter is chosen when Triton is imported.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from guard.profile.spec import Gaussian, Uniform
from guard.screen import noise_kernel

torch.cuda.device = nullcontext  # type: ignore[assignment,misc] # there is none that Triton could launch on


def main(given: str, made: str) -> None:
    """Make the copies that a file asks for, each with a row beyond, which must stay as it was."""
    with np.load(given) as file:
        inputs = [torch.from_numpy(x) for x in file["inputs"]]
        seeds, (scale, low, high) = file["seeds"], file["numbers"].tolist()
    found = {}
    for mutation in (Gaussian(sigma=scale), Uniform(width=scale)):
        out = torch.full((len(inputs) + 1, *inputs[0].shape), torch.nan)
        noise_kernel.add_noise(mutation, inputs, seeds, out[:-1], (low, high))
        found[mutation.kind] = out.numpy()
    np.savez(made, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
