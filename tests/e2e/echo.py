"""A model that answers with what it is sent, for each data type, and values that are hard on each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.triton import Triton

TYPES = (
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
    "STRING",
)
ECHO = Path(__file__).parents[1] / "support" / "triton_echo.py"
VALUES = {
    "BOOL": np.array([True, False]),
    "FP16": np.array([0.5, -2], np.float16),
    "FP32": np.array([0.1, -3e38, 1e-40], np.float32),
    "FP64": np.array([0.1, 1e300, 5e-324]),
} | {
    name: np.array([np.iinfo(name.lower()).min, np.iinfo(name.lower()).max], name.lower())
    for name in TYPES
    if name.startswith(("INT", "UINT"))
}
TEXT = np.array([b"caf\xc3\xa9", b"", b"a,b"], np.object_)


def add_echo(server: Triton) -> None:
    """Add it to a server that was not started yet."""
    tensors = [
        f'{kind} [{{ name: "{prefix}{each}" data_type: TYPE_{each} dims: [-1] {more} }}]'
        for kind, prefix, more in (("input", "", "optional: true"), ("output", "out_", ""))
        for each in TYPES
    ]
    server.add("echo", ECHO, "\n".join([*tensors, "instance_group [{ count: 1 kind: KIND_CPU }]"]))
