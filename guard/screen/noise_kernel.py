"""Noisy copies in one pass over the device's memory: Philox (Salmon et al., 2011), in Triton's language.

Each row reads its own input by address, so inputs stay where they were uploaded and are never repeated. Values are told
apart by their place in the row, which is the counter, and rows by their 64-bit seed, which is the key.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

from guard.profile.spec import Gaussian, Uniform
from guard.screen.mutations import Bounds

_BLOCK = 1024


@triton.jit(do_not_specialize=["copies"])  # or each kind of count would be compiled when it first comes
@no_type_check  # tests check types at run time, and the compiler reads the function as it is written
def _kernel(out, sent, copies, values, scale, low, high, GAUSSIAN: tl.constexpr, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202, N803, PLR0917 - compiled
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < values
    seed = tl.load(sent + row)
    x = tl.load(tl.load(sent + copies + row).to(tl.pointer_type(tl.float32)) + at, mask=inside)
    if GAUSSIAN:
        copy = x + scale * tl.randn(seed, at)
    else:
        copy = x + scale * (2 * tl.rand(seed, at) - 1)
        copy = tl.minimum(tl.maximum(copy, low), high)
    tl.store(out + row.to(tl.int64) * values + at, copy, mask=inside)


def add_noise(
    mutation: Gaussian | Uniform, inputs: Sequence[Tensor], seeds: npt.NDArray[np.int64], out: Tensor, bounds: Bounds
) -> None:
    """Fill the rows of `out` with `inputs` and noise on top, one seed a row; all are float32 and contiguous."""
    copies, values = len(out), out[0].numel()
    addresses = np.array([x.data_ptr() for x in inputs], dtype=np.int64)
    sent = torch.from_numpy(np.concatenate([seeds, addresses])).to(out.device)
    gaussian = isinstance(mutation, Gaussian)
    scale = mutation.sigma if isinstance(mutation, Gaussian) else mutation.width
    grid = (copies, triton.cdiv(values, _BLOCK))
    kernel: Any = _kernel[grid]
    with torch.cuda.device(out.device):  # Triton launches on the current one
        kernel(out, sent, copies, values, float(scale), *map(float, bounds), GAUSSIAN=gaussian, BLOCK=_BLOCK)
