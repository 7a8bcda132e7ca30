"""The example images of a report, and what the label hangs on after an attack."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import torch
from rich.console import Console

from guard.model.onnx import OnnxBackend
from guard.offline.evaluate.command import evaluate_to
from guard.offline.evaluate.example import Example, Heat, heat_of
from guard.offline.evaluate.pictures import pictures
from guard.offline.view import Bytes, View
from guard.profile import store
from guard.screen.occlusion import masks_of
from guard.values import Occlusion
from tests.offline.evaluate.conftest import MASKS, Heated, Report
from tests.offline.evaluate.test_report import Page
from tests.offline.evaluate.test_resume import dates

LEGEND = "covering this place takes the label away"


def drawn(url: str | None) -> Bytes:
    """A picture's red, green and blue, (height, width, 3)."""
    kind, _, data = (url or "").partition(",")
    assert kind == "data:image/png;base64"
    found = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return np.asarray(found[..., ::-1], np.uint8)


def example(heat: Heat | None, image: Bytes) -> Example:
    """With nothing changed."""
    return Example("none", image, image, 1, 2, flagged=True, p_value=0.01, accuser="occlusion", heat=heat)


def test_heat_is_where_the_windows_are() -> None:
    """A pixel has the mean of all windows that cover it, wherever they overlap."""
    found = Occlusion(heat=((4.0, 0.0), (0.0, -4.0)), hottest=(0, 0, 2, 3), tops=(0, 1), lefts=(0, 1))
    heat = heat_of(found)
    np.testing.assert_allclose(heat.pixels, [[4, 2, 2, 0], [2, 0, 0, -2], [0, -2, -2, -4]])
    assert heat.hottest == found.hottest


def test_a_heat_map_is_drawn() -> None:
    """What is hottest is orange and framed; what holds nothing stays grey, and darker than in the image."""
    pixels = np.zeros((8, 6), np.float32)
    pixels[4:7, 1:3], pixels[0, 5] = 3.0, -3.0
    image = np.full((3, 8, 6), 200, np.uint8)
    shown = pictures(example(Heat(pixels, (4, 1, 3, 2)), image))
    assert shown.where == "rows 4 to 6, columns 1 to 2"
    heated, side = drawn(shown.heat), 144 // 8
    assert heated.shape == drawn(shown.made).shape == (8 * side, 6 * side, 3)
    middles = heated[side // 2 :: side, side // 2 :: side].astype(int)
    hot = pixels > 0
    assert (middles[hot][:, 0] > 200).all()
    assert (middles[hot][:, 1:] < 100).all()
    np.testing.assert_array_equal(middles[~hot], 120)
    np.testing.assert_array_equal(heated[4 * side, side : 3 * side], [(0, 200, 215)] * (2 * side))
    np.testing.assert_array_equal(heated[4 * side : 7 * side, 3 * side - 1], [(0, 200, 215)] * (3 * side))
    assert pictures(example(None, image)).heat is None


def test_no_part_holds_anything() -> None:
    """Where covering takes nothing away, nothing glows."""
    shown = pictures(example(Heat(np.full((8, 8), -1.0, np.float32), (0, 0, 2, 2)), np.zeros((1, 8, 8), np.uint8)))
    assert drawn(shown.heat)[..., 0].max() == 0


def test_what_the_label_hangs_on(heated: Heated) -> None:
    """The heat of an example is what the model's own margins say when its attacked image is covered, place by place."""
    profile = store.load(heated.request.profile)
    backend = OnnxBackend((heated.request.model or heated.file).read_bytes(), profile.model)
    windows = masks_of(MASKS).windows
    assert len(heated.evaluation.examples) > 2
    for each in heated.evaluation.examples:
        (x,) = View(profile.model).own(each.made[None])
        covered = np.repeat(x[None], len(windows), axis=0)
        for copy, (top, left, height, width) in zip(covered, windows, strict=True):
            copy[:, top : top + height, left : left + width] = MASKS.fill[0]
        logits = backend.logits(torch.from_numpy(covered)).numpy()
        others = np.delete(logits, each.became, axis=1).max(axis=1)
        margins = logits[:, each.became] - others
        assert each.heat is not None
        assert each.heat.hottest == windows[int(margins.argmin())]
        total, covered_by = np.zeros(MASKS.image_px), np.zeros(MASKS.image_px)
        for value, (top, left, height, width) in zip(np.median(margins) - margins, windows, strict=True):
            total[top : top + height, left : left + width] += value
            covered_by[top : top + height, left : left + width] += 1
        np.testing.assert_allclose(each.heat.pixels, total / covered_by, atol=1e-3)
    backend.close()


def test_nothing_else_is_screened_again(heated: Heated) -> None:
    """A run that finds everything kept has the same heat maps, and writes nothing anew."""
    before = dates(heated.request.out)
    again = evaluate_to(heated.request, Console(quiet=True))
    assert dates(heated.request.out) == before
    for one, other in zip(heated.evaluation.examples, again.examples, strict=True):
        assert one.heat is not None
        assert other.heat is not None
        np.testing.assert_array_equal(one.heat.pixels, other.heat.pixels)


def test_on_the_page(heated: Heated, report: Report) -> None:
    """Each example has a heat map, whose alternative text says where, and a legend; without occlusion there is none."""
    page = Page(heated.file.read_text())
    said = [attrs["alt"] or "" for tag, attrs in page.tags if tag == "img"]
    assert len(said) == 4 * 2
    assert sum(text.startswith("heat map") and "columns" in text for text in said) == 2
    assert LEGEND in page.text
    assert "heat map" not in report.page.lower()
    assert LEGEND not in report.page
