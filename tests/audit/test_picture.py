"""A record as a picture and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from guard.audit.picture import draw, evidence_of
from guard.audit.pixels import input_of, pixels_of
from guard.audit.records import record_of, records
from guard.audit.text import lines_of, words_of, words_of_all
from guard.errors import DataError
from guard.values import InferRequest, WireTensor
from tests.audit.parts import BY, IMAGE, decision, rejected, settings, sighting, writing

KEY = bytes(range(32, 64))
CYAN = np.array([255, 255, 0])
"""As OpenCV has colours: the frame around the hottest window."""


def recorded(folder: Path, *sightings: Any) -> list[Any]:
    """Records with their inputs."""
    with writing(settings(folder, captured=True)) as (log, _):
        for each in sightings:
            log.record(each)
    return list(records(folder))


def with_shape(image: np.ndarray, layout: str, bounds: tuple[float, float] = (0.0, 1.0)) -> Any:
    """A rejected request of a model whose input has another layout."""
    by = type(BY)(input_name="input", shape=image.shape[1:], layout=layout, bounds=bounds)
    return sighting(rejected(), image, provenance=by)


@pytest.mark.parametrize(
    ("shape", "layout", "seen"),
    [((2, 3, 4, 5), "chw", (4, 5, 3)), ((2, 4, 5, 3), "hwc", (4, 5, 3)), ((2, 4, 5), "hw", (4, 5))],
    ids=["chw", "hwc", "hw"],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], layout: str, seen: tuple[int, ...]) -> None:
    """An item is shown with its channels where they belong, in the range of its model."""
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    (event,) = recorded(tmp_path / "log", with_shape(values, layout, (0.0, float(values.max()))))
    image = pixels_of(event, input_of(tmp_path / "log", event, 1, [KEY]))
    assert image.shape == seen
    expected = values[1] / values.max()
    assert np.allclose(image, np.moveaxis(expected, 0, -1) if layout == "chw" else expected)


def test_an_encoded_image(tmp_path: Path) -> None:
    """An input that came as an encoded image is decoded."""
    _, png = cv2.imencode(".png", np.full((6, 7, 3), (0, 0, 255), np.uint8))
    typed = WireTensor("image", "BYTES", (1,), typed=np.fromiter([png.tobytes()], np.object_, 1))
    made = sighting()
    fields = {name: getattr(made, name) for name in type(made).__dataclass_fields__}
    request = InferRequest("digits", "", "", (typed,))
    (event,) = recorded(tmp_path / "log", type(made)(**(fields | {"request": request})))
    image = pixels_of(event, input_of(tmp_path / "log", event, 0, [KEY]))
    assert image.shape == (6, 7, 3)
    assert np.array_equal(image[0, 0], [1, 0, 0])


def test_the_heat_map_is_drawn(tmp_path: Path) -> None:
    """A picture has the frame around the window that the answer hangs on; where nobody looked, it says so."""
    with_heat, without = recorded(
        tmp_path / "log", sighting(), sighting(decision(verdict=rejected().verdict, action=rejected().action, uid="d2"))
    )
    frames = []
    for event in (with_heat, without):
        path = tmp_path / f"{event['id']}.png"
        draw(event, 0, pixels_of(event, input_of(tmp_path / "log", event, 0, [KEY])), path)
        frames.append(int((cv2.imread(str(path)) == CYAN).all(axis=-1).sum()))
    assert frames[0] > 100
    assert frames[1] == 0


def test_a_page(tmp_path: Path) -> None:
    """As HTML there is the whole record below, in which nothing that a client sent is markup."""
    made = sighting()
    fields = {name: getattr(made, name) for name in type(made).__dataclass_fields__}
    request = InferRequest("digits", "", "<script>alert(1)</script>", made.request.inputs)
    (event,) = recorded(tmp_path / "log", type(made)(**(fields | {"request": request})))
    draw(event, 0, IMAGE[0, 0], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "data:image/png;base64," in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_words(tmp_path: Path) -> None:
    """In words a record says what was decided, why, and what each detector said."""
    (event,) = recorded(tmp_path / "log", sighting())
    text = "\n".join(lines_of(event, 0, evidence_of(event, 0)))
    assert "adversarial: reject in enforce mode, denied" in text
    assert "AML.T0043 Craft Adversarial Data (MITRE ATLAS 5.6.0)" in text
    assert "sensitivity 1+a: as rare as one benign input in 500 (p 0.002); 61 % of the verdict" in text
    assert "occlusion 0.1.0: rarer than one benign input in 200, all that were measured; 39 % of the verdict" in text
    assert "together: rarer than one benign input in 200, all that were measured; 72 % of the verdict" in text


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"p_value": 2.5e-5, "samples": 100_000, "share": 0.61}, "one benign input in 40,000 (p 2.5e-05); 61 % of the"),
        (
            {"p_value": 2e-15, "samples": 180, "share": 0.999},
            "rarer than one benign input in 180, all that were measured",
        ),
        ({"p_value": 2e-15, "samples": 180, "share": 0.999}, "; over 99 % of the verdict"),
        ({"p_value": 1 / 181, "samples": 180, "share": 0.001}, "in 181 (p 0.0055); less than 1 % of the verdict"),
        ({"p_value": 0.8, "samples": 180, "share": None}, "ordinary: 80 % of benign inputs are as unusual (p 0.8)"),
        ({"p_value": 2e-15}, "p 2e-15"),
        ({"p_value": None, "score": 3.14159}, "not calibrated, score 3.14"),
    ],
)
def test_words_of_evidence(said: dict[str, Any], words: str) -> None:
    """A p-value is told as how rare an input is; one beyond what benign samples can tell as no rarer than they say.

    An older record, which doesn't say how many there were, keeps its figure.
    """
    assert words in words_of({"finding": "evidence", **said})


def test_together_is_told_where_it_decides() -> None:
    """What detectors say together has a line where it is half of the verdict or more."""
    told = {"p_value": 0.01, "samples": 180}
    assert words_of_all({"together": {**told, "share": 0.49}}) == words_of_all({}) == ""
    assert words_of_all({"together": {**told, "share": 0.5}}).startswith("as rare as one benign input in 100 (p 0.01)")


def test_which_record(tmp_path: Path) -> None:
    """A record is found by the decision's id, or by the request's where only one has it."""
    recorded(tmp_path / "log", sighting(rejected("a")), sighting(rejected("b")))
    assert record_of(tmp_path / "log", "b")["id"] == "b"
    with pytest.raises(DataError, match="2 requests had the id r1; give the id of a decision: a, b"):
        record_of(tmp_path / "log", "r1")
    with pytest.raises(DataError, match="has no record of c"):
        record_of(tmp_path / "log", "c")


def test_mistakes(tmp_path: Path) -> None:
    """What can't be drawn says why."""
    folder = tmp_path / "log"
    bad, good = recorded(folder, sighting(), sighting(decision(uid="good")))
    with pytest.raises(DataError, match="the input of good was not kept"):
        input_of(folder, good, 0, [KEY])
    with pytest.raises(DataError, match="there is no item 3"):
        input_of(folder, bad, 3, [KEY])
    with pytest.raises(DataError, match="tells of item 0, not of item 3"):
        evidence_of(bad, 3)
    with pytest.raises(DataError, match=r"ends neither in .png nor in .html"):
        draw(bad, 0, None, tmp_path / "a.gif")
