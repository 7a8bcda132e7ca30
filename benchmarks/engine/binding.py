"""What binding input and output by address gains on the CPU: `python -m benchmarks.engine.binding`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console

from benchmarks import models
from benchmarks.engine.clock import ratio, seconds
from benchmarks.engine.table import machine
from guard.model.onnx import OnnxBackend
from guard.values import ModelInfo, OutputKind

_CALLS_S = 0.05
_ROUNDS = 15
_ROWS = (16, 64, 128)


class Found(NamedTuple):
    """Microseconds that a call takes bound, and the ratio of a plain call to it with its least and largest round."""

    model: str
    rows: int
    bound_us: float
    ratio: float
    low: float
    high: float


def main(
    out: Annotated[Path, typer.Option(help="Where binding.json and binding.md go.")] = Path("benchmarks/results"),
) -> None:
    """Measure plain calls beside bound ones, in turns."""
    torch.set_num_threads(1)
    about = machine("benchmarks.engine.binding")
    subjects = (
        ("LeNet-5", models.lenet5(), models.LENET5_SHAPE),
        ("ResNet-20", models.resnet20(), models.RESNET20_SHAPE),
    )
    found: list[Found] = []
    for name, net, shape in subjects:
        content = models.to_onnx(net, shape)
        found += [measure(name, content, shape, rows) for rows in _ROWS]
    Console().print(write(found, about, out))


def write(found: Sequence[Found], about: dict[str, str], out: Path) -> str:
    """Write binding.json and binding.md, whose text is returned."""
    report = {"about": about, "rows": [each._asdict() for each in found]}
    (out / "binding.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = [
        "# Input and output bound by address, on the CPU",
        "",
        f"A plain call of ONNX Runtime over one with both bound once, in {_ROUNDS} rounds by turns: 1 is no gain.",
        "",
        "| model | rows | a bound call | plain over bound | rounds |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {f.model} | {f.rows} | {f.bound_us:.0f} us | {f.ratio:.3f} | {f.low:.3f} to {f.high:.3f} |"
            for f in found
        ),
    ]
    text = "\n".join(lines) + "\n"
    (out / "binding.md").write_text(text, encoding="utf-8")
    return text


def measure(
    name: str, content: bytes, shape: tuple[int, ...], rows: int, *, rounds: int = _ROUNDS, calls_s: float = _CALLS_S
) -> Found:
    """Both kinds of call on one batch, which must answer alike.

    Raises:
        AssertionError: they do not.
    """
    info = ModelInfo(name, "input", "logits", "FP32", shape, models.CLASSES, (0.0, 1.0), OutputKind.LOGITS, name)
    plain, bound = OnnxBackend(content, info), OnnxBackend(content, info, bound=True)
    one, other = torch.zeros(rows, *shape), bound.lend(rows, 1)[0]
    one.uniform_()
    other.copy_(one)
    if not torch.allclose(plain.logits(one), bound.logits(other), atol=1e-5):
        raise AssertionError("a bound call answers otherwise")
    once = seconds(partial(plain.logits, one)) + seconds(partial(plain.logits, one))
    calls = max(3, int(calls_s / once))

    def cost(backend: OnnxBackend, batch: torch.Tensor) -> float:
        return seconds(lambda: [backend.logits(batch) for _ in range(calls)]) / calls

    found = ratio(partial(cost, plain, one), partial(cost, bound, other), rounds)
    return Found(name, rows, found.numerator / found.value * 1e6, found.value, found.low, found.high)


if __name__ == "__main__":
    typer.run(main)
