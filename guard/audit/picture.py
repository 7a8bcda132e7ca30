"""A record as a picture: the input, where the answer hangs, and what each detector said."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from guard.audit.text import words_of, words_of_all
from guard.audit.tiles import tiles_of
from guard.errors import DataError
from guard.output import writing
from guard.values import Float32Array, Occlusion

SUFFIXES: Final = (".png", ".html")
_LEAST_P = 1e-4
_DPI = 110
_SMALL = "small"


def draw(
    event: Mapping[str, Any], item: int, image: Float32Array | None, path: Path, seen: Occlusion | None = None
) -> None:
    """Write a record's item as PNG or, with the whole record below it, as HTML, by the path's ending.

    The heat map is what covering parts of the input showed now, or else what the record has of that.

    Raises:
        DataError: the record does not tell of the item, or the path has another ending or can't be written.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} ends neither in .png nor in .html; name such a file with --out")
    picture = _figure(event, evidence_of(event, item), item, image, None if seen is None else asdict(seen))
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=_DPI)
    with writing(path):
        path.write_bytes(buffer.getvalue() if path.suffix == ".png" else _page(event, buffer.getvalue()))


def evidence_of(event: Mapping[str, Any], item: int) -> Mapping[str, Any]:
    """What a record tells of an item.

    Raises:
        DataError: nothing.
    """
    told = {each["name"]: each["data"] for each in event["data"]["evidences"]}
    found: Mapping[str, Any] | None = told.get(f"item {item}")
    if found is None:
        raise DataError(f"the record tells of {', '.join(told) or 'no item'}, not of item {item}")
    return found


def _figure(
    event: Mapping[str, Any],
    told: Mapping[str, Any],
    item: int,
    image: Float32Array | None,
    now: Mapping[str, Any] | None,
) -> Figure:
    rest = event["data"]["unmapped"]["guard"]
    seen = now or next((each["occlusion"] for each in told["detectors"] if "occlusion" in each), None)
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    _show_input(left, image)
    middle.set_title(f"what the answer hangs on (occlusion{', made now' if now else ''})", fontsize=_SMALL)
    _show_heat(middle, image, seen, tuple(rest["input"]["shape"]), rest["input"]["layout"])
    _show_detectors(right, told)
    p_value = "" if told["p_value"] is None else f", p = {told['p_value']:.3g}"
    figure.suptitle(
        f"{rest['model']}, item {item}: {told['verdict']}{p_value}; {rest['decision']} in {rest['mode']} mode\n"
        f"{event['id']}, {event['time']}",
        fontsize="medium",
    )
    return figure


def _show_input(axis: Any, image: Float32Array | None) -> None:
    axis.set_title("input", fontsize=_SMALL)
    axis.set_xticks([])
    axis.set_yticks([])
    if image is None:
        axis.text(0.5, 0.5, "not kept", ha="center", va="center", transform=axis.transAxes)
    else:
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)


def _show_heat(
    axis: Any, image: Float32Array | None, seen: Mapping[str, Any] | None, shape: tuple[int, ...], layout: str
) -> None:
    """How much of the label's margin each part of the input holds, over the input in grey."""
    axis.set_xticks([])
    axis.set_yticks([])
    if seen is None:
        words = "no heat map: occlusion did not look\n(--model and --profile make one)"
        axis.text(0.5, 0.5, words, ha="center", va="center", fontsize=_SMALL, transform=axis.transAxes)
        return
    height, width = shape[:2] if layout in {"hw", "hwc"} else shape[-2:]
    within = (-0.5, width - 0.5, height - 0.5, -0.5)
    top, left, tall, wide = seen["hottest"]
    tiles = tiles_of(seen["heat"], seen["tops"], seen["lefts"], (tall, wide))
    if image is not None:
        axis.imshow(image if image.ndim == 2 else image.mean(axis=-1), cmap="gray", vmin=0, vmax=1, extent=within)  # noqa: PLR2004 - grey
    rows, columns = (np.array(cuts) - 0.5 for cuts in (tiles.rows, tiles.columns))
    alpha = 0.55 if image is not None else 1.0
    shown = axis.pcolormesh(columns, rows, np.ma.masked_invalid(tiles.values), cmap="inferno", alpha=alpha)
    axis.set(xlim=within[:2], ylim=within[2:], aspect="equal")
    axis.add_patch(Rectangle((left - 0.5, top - 0.5), wide, tall, fill=False, edgecolor="cyan", linewidth=1.5))
    axis.figure.colorbar(shown, ax=axis, shrink=0.8, label="logits beyond a typical window")


def _show_detectors(axis: Any, told: Mapping[str, Any]) -> None:
    """A bar for each p-value, and in words what gave none."""
    names, bars, words = list[str](), list[float](), list[str]()
    for each in reversed(told["detectors"]):
        p_value = each.get("p_value")
        names.append(each["detector"])
        bars.append(0.0 if p_value is None else -math.log10(max(p_value, _LEAST_P)))
        words.append(words_of(each))
    colours = ["tab:red" if bar > -math.log10(0.05) else "tab:blue" for bar in bars]
    axis.barh(names, bars, color=colours, alpha=0.4)
    for index, text in enumerate(words):
        axis.text(0.05, index, text.replace("; ", "\n"), va="center", fontsize="x-small")
    axis.set_xlim(0, -math.log10(_LEAST_P))
    axis.tick_params(labelsize="x-small")
    together = words_of_all(told).replace("; ", "\n")
    below = f"\n\ntogether: {together}" if together else ""
    axis.set_xlabel(f"surprise: -log10 of the p-value{below}", fontsize=_SMALL)
    axis.set_title("what each detector said", fontsize=_SMALL)


def _page(event: Mapping[str, Any], picture: bytes) -> bytes:
    """The picture and the whole record, with nothing of a client's that a browser would take for its own."""
    name, record = html.escape(str(event["id"])), html.escape(json.dumps(event, indent=2))
    image = base64.b64encode(picture).decode()
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f'<body><img src="data:image/png;base64,{image}" alt="input, heat map and detectors">'
        f"<pre>{record}</pre></body></html>\n"
    ).encode()
