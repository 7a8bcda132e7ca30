"""What is kept of flagged requests."""

from __future__ import annotations

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from guard.audit.keys import pseudonym
from guard.console.evidence import heat_of, said_of, why_no_heat
from guard.console.flagged import Flagged, Seen, is_flagged
from guard.console.thumbnail import LONGEST_PX, thumbnail_of
from guard.datatypes import to_wire
from guard.values import (
    Action,
    InferRequest,
    ItemDecision,
    Mode,
    Spared,
    UnscreenedReason,
    Verdict,
    WireTensor,
)
from tests.audit.parts import BY, IMAGE, decision, probing, rejected, sighting

KEY = b"k" * 32
MAX_PIXELS = 1_000_000


def flagged(keep: int = 5) -> Flagged:
    """Keeps a few."""
    return Flagged(keep, lambda: KEY, max_image_pixels=MAX_PIXELS)


def one(what: object = None, **more: object) -> Seen:
    """What is kept of one request."""
    kept = flagged()
    kept.record(sighting(what, **more))  # type: ignore[arg-type]
    assert kept.work(0.0)
    return kept.latest()[0]


def read(png: bytes) -> np.ndarray:
    """A picture's pixels."""
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (decision(), False),
        (rejected(), True),
        (decision(Verdict.ADVERSARIAL, Action.FORWARD, intended=Action.REJECT, mode=Mode.SHADOW), True),
        (decision(Verdict.ABSTAIN, Action.FLAG), True),
        (decision(Verdict.CLEAN, Action.FORWARD, probing(suspicious=True)), True),
        (decision(Verdict.UNSCREENED, Action.REJECT, reason=UnscreenedReason.OVERLOAD), False),
    ],
    ids=["clean", "rejected", "shadow", "abstain", "probing", "unscreened"],
)
def test_what_is_flagged(what: object, *, expected: bool) -> None:
    """What is rejected or marked, or would be elsewhere; not what nobody looked at, of which there may be floods."""
    assert is_flagged(what) is expected  # type: ignore[arg-type]


def test_what_is_kept() -> None:
    """A request is kept with its decision, its client's pseudonym alone, and a picture of its first culprit."""
    seen = one()
    assert (seen.id, seen.model, seen.mode, seen.action, seen.verdict) == (
        "d1",
        "digits",
        "enforce",
        "reject",
        "adversarial",
    )
    assert seen.client == pseudonym(KEY, "ipv4:10.0.0.7")
    assert "10.0.0.7" not in repr(seen)
    assert seen.thumbnail is not None
    np.testing.assert_array_equal(read(seen.thumbnail.png), np.rint(IMAGE[0, 0] * 255))


def test_only_the_latest_are_kept() -> None:
    """There are never more than asked for; the latest comes first."""
    kept = flagged(keep=3)
    for number in range(5):
        kept.record(sighting(rejected(str(number))))
        kept.work(0.0)
    assert [each.id for each in kept.latest()] == ["4", "3", "2"]
    assert kept.find("3") is not None
    assert kept.find("1") is None


def test_a_flood() -> None:
    """What comes faster than it is made ready is left out, the oldest first, and counted."""
    kept = flagged(keep=100)
    for number in range(50):
        kept.record(sighting(rejected(str(number))))
    while kept.work(0.0):
        pass
    assert [each.id for each in kept.latest()] == [str(number) for number in range(49, 33, -1)]
    assert kept.left_out == 34


def test_large_requests_do_not_pile_up() -> None:
    """Messages stay in memory for as long as they wait here, so few large ones wait."""
    kept = flagged(keep=100)
    large = np.zeros((1, 3000, 3000), np.float32)
    for number in range(4):
        kept.record(sighting(rejected(str(number)), large))
    assert kept.left_out == 3


def test_one_that_can_not_be_shown() -> None:
    """Something odd about a request keeps no other from being shown."""
    kept = flagged()
    kept.record(replace(sighting(rejected("odd")), client=3))  # type: ignore[arg-type]
    kept.record(sighting(rejected("even")))
    assert kept.work(0.0)
    assert kept.work(0.0)
    assert [each.id for each in kept.latest()] == ["even"]


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16", "BF16", "UINT8", "INT32"])
def test_thumbnails_of_data_types(datatype: str) -> None:
    """Whatever the data type, a picture shows the model's range as black to white."""
    values = np.array([[0, 51], [102, 255]], np.float32)
    tensor = WireTensor("input", datatype, (1, 1, 2, 2), raw=memoryview(to_wire(datatype, values)))
    made = sighting(provenance=replace(BY, shape=(1, 2, 2), bounds=(0.0, 255.0)))
    found = thumbnail_of(replace(made, request=InferRequest("m", "", "", (tensor,))), 0, MAX_PIXELS)
    assert found is not None
    np.testing.assert_allclose(read(found.png), values, atol=1)


@pytest.mark.parametrize(("layout", "shape"), [("chw", (3, 500, 250)), ("hwc", (500, 250, 3)), ("hw", (500, 250))])
def test_thumbnails_of_layouts(layout: str, shape: tuple[int, ...]) -> None:
    """Colours come out in their order, and large images no larger than a thumbnail."""
    x = np.zeros(shape, np.float32)
    reds = {"chw": np.s_[0], "hwc": np.s_[..., 0], "hw": np.s_[:]}
    x[reds[layout]] = 1.0
    made = sighting(image=np.stack([np.zeros_like(x), x]), provenance=replace(BY, shape=shape, layout=layout))
    found = thumbnail_of(made, 1, MAX_PIXELS)
    assert found is not None
    assert (found.height, found.width) == (LONGEST_PX, LONGEST_PX // 2)
    expected = 255 if layout == "hw" else (0, 0, 255)  # in OpenCV's order
    assert (read(found.png) == expected).all()


def test_a_thumbnail_of_an_encoded_image() -> None:
    """An encoded image is decoded within the limits of the policy; one beyond them has no picture."""
    written = io.BytesIO()
    Image.new("RGB", (400, 100), (200, 0, 0)).save(written, "PNG")
    tensor = WireTensor("input", "BYTES", (1,), typed=np.array([written.getvalue()], object))
    made = replace(sighting(), request=InferRequest("m", "", "", (tensor,)))
    found = thumbnail_of(made, 0, MAX_PIXELS)
    assert found is not None
    assert (found.height, found.width) == (48, 192)
    assert (read(found.png) == (0, 0, 200)).all()
    assert thumbnail_of(made, 0, 400 * 100 - 1) is None


def test_no_thumbnail_of_what_is_no_image() -> None:
    """Inputs that are no images are kept without a picture."""
    seen = one(image=np.zeros((1, 7), np.float32), provenance=replace(BY, shape=(7,), layout="none"))
    assert seen.thumbnail is None


def test_the_heat_map() -> None:
    """Where a part of the picture holds more of the answer it is hotter; the hottest window is where it was found."""
    heat = heat_of(one())
    assert heat is not None
    assert [cell.heat for cell in heat.cells] == [0.11, 1.0, 0.22, 0.33]
    assert [(cell.x, cell.y) for cell in heat.cells] == [(0, 0), (50, 0), (0, 50), (50, 50)]
    hottest = heat.hottest  # (top, left, height, width) is (0, 4, 4, 4), of 8 x 8
    assert (hottest.x, hottest.y, hottest.width, hottest.height) == (50, 0, 50, 50)


def test_why_there_is_no_heat_map() -> None:
    """Its absence has a reason: the detector was spared, or there is none."""
    spared = ItemDecision(Verdict.ADVERSARIAL, 0.01, (Spared("occlusion"),))
    seen = one(decision(Verdict.ADVERSARIAL, Action.REJECT, items=(spared,)))
    assert heat_of(seen) is None
    assert why_no_heat(seen) == "none: the verdict was certain before"
    assert why_no_heat(one(decision(Verdict.ADVERSARIAL, Action.REJECT))) == "none: the profile has no occlusion"


def test_what_detectors_said() -> None:
    """Each detector has its words and a bar that is longer the smaller its p-value is."""
    sensitivity, occlusion = said_of(one())
    assert (sensitivity.detector, sensitivity.version, sensitivity.evaluations) == ("sensitivity", "1+a", 16)
    assert sensitivity.words == "as rare as one benign input in 500 (p 0.002); 61 % of the verdict"
    assert (sensitivity.p, sensitivity.share, sensitivity.surprising) == ("0.002", 0.61, True)
    assert sensitivity.bar == pytest.approx(67.5, abs=0.1)
    assert (occlusion.p, occlusion.share) == ("< 1/200", 0.39)
    assert (occlusion.surprising, occlusion.bar) == (True, pytest.approx(63.1, abs=0.1))
