"""Masks, double masking, and what a trial says of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from structlog.testing import capture_logs
from torch import Tensor, nn

from guard.errors import ConfigError
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.mutations import Wanted, copies
from guard.screen.mutations import make as fill
from guard.screen.occlusion import DoubleMasking, OcclusionTrial, masks_of, partners
from guard.screen.trial import ITSELF, MODEL, Probes, compare
from guard.values import Abstention, Evidence, Fault, FaultReason, Float32Array, IntArray, Occlusion
from tests.screen.parts import TIMEOUT_S, FakeBackend, Respond, drive, model_info, untimed
from tests.support import digits
from tests.support.digits import DigitsData

BOUNDS = (0.0, 1.0)
SMALL = spec.OcclusionSpec(image_px=(6, 6), patch_px=2, grid=3, fill=(0.5,), pairs="certify")
DIGITS = spec.OcclusionSpec(image_px=(8, 8), patch_px=3, grid=3, fill=(0.5,), pairs="skip")
LAYOUTS = {"HW": (9, 12), "CHW": (3, 9, 12), "HWC": (9, 12, 3)}
CASES = ("agreed", "disagreer", "majority")


def labels_of(pairs: IntArray, first: int, start: int, end: int) -> IntArray:
    """The labels of a mask with some of its partners."""
    return pairs[first, partners(first, len(pairs))[start:end]]


def decide(pairs: IntArray, how: str) -> tuple[DoubleMasking, int]:
    """Double masking as Guard does it, on a table of labels, and how many pairs it looked up."""
    rule, looked_up = DoubleMasking(np.diagonal(pairs), how), 0
    while not rule.done:
        start, end = rule.next()
        for mask in rule.open:
            assert end > start
            looked_up += end - start
            rule.tell(mask, labels_of(pairs, mask, start, end))
    return rule, looked_up


def plainly(pairs: IntArray) -> tuple[int, str]:
    """Double masking as its paper says it (algorithm 1), and which of its three cases it was."""
    single = [int(pairs[mask, mask]) for mask in range(len(pairs))]
    majority = max(sorted(set(single)), key=single.count)
    if all(label == majority for label in single):
        return majority, "agreed"
    for mask, label in enumerate(single):
        if label != majority and all(int(other) == label for other in pairs[mask]):
            return label, "disagreer"
    return majority, "majority"


def table(rng: np.random.Generator) -> IntArray:
    """Labels of all pairs of masks, singles on the diagonal: mostly one label, another wherever some mask is."""
    n = int(rng.integers(4, 17))
    pairs = np.zeros((n, n), dtype=np.int64)
    noisy = rng.random((n, n)) < rng.choice([0.0, 0.02, 0.3])
    pairs[noisy] = rng.integers(0, 4, int(noisy.sum()))
    pairs = np.tril(pairs) + np.tril(pairs, -1).T
    for mask in rng.choice(n, rng.integers(0, 3), replace=False):
        pairs[mask] = pairs[:, mask] = 2
    return pairs


def test_decides_as_the_plain_algorithm() -> None:
    """On random tables of labels it ends with the label of the paper's algorithm, in each of its cases.

    It never looks up more pairs, and no pair twice beside the same mask.
    """
    rng = np.random.default_rng(0)
    seen = dict.fromkeys(CASES, 0)
    for _ in range(1500):
        pairs = table(rng)
        label, case = plainly(pairs)
        seen[case] += 1
        n = len(pairs)
        for how in ("recover", "certify"):
            rule, looked_up = decide(pairs, how)
            assert rule.label == label
            if rule.dissent or how == "recover":
                assert looked_up <= len(rule.dissent) * (n - 1)
            assert rule.certified is (how == "certify" and bool((pairs == label).all()))
    assert min(seen.values()) > 100


def test_most_pairs_are_spared() -> None:
    """A mask that a second one contradicts is dropped early: a benign image costs a part of the pairs."""
    pairs = np.zeros((36, 36), dtype=np.int64)
    pairs[3, 3] = pairs[20, 20] = 1
    rule, looked_up = decide(pairs, "recover")
    assert (rule.label, rule.dissent, looked_up) == (0, [3, 20], 8)


@pytest.mark.parametrize("n", [4, 9, 16, 25, 30])
def test_partners(n: int) -> None:
    """Each other mask is a partner once, and the first halves hold each pair: a certificate rests on all of them."""
    for mask in range(n):
        assert sorted([mask, *partners(mask, n)]) == list(range(n))
    halves = {frozenset((mask, other)) for mask in range(n) for other in partners(mask, n)[: n // 2]}
    assert halves == {frozenset(pair) for pair in combinations(range(n), 2)}


def test_pairs_may_be_skipped() -> None:
    """Without pairs a label is known only where all masks agree."""
    agreed, differing = np.zeros((9, 9), dtype=np.int64), np.zeros((9, 9), dtype=np.int64)
    differing[2, :] = differing[:, 2] = 1
    assert [(rule.label, looked_up) for rule, looked_up in (decide(t, "skip") for t in (agreed, differing))] == [
        (0, 0),
        (None, 0),
    ]


@settings(deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.integers(1, 12), st.integers(2, 8))
def test_some_mask_covers_any_sticker(height: int, width: int, patch: int, grid: int) -> None:
    """Wherever a sticker of the size is, one mask covers it whole; masks stay inside, and are no more than asked."""
    patch = min(patch, min(height, width) - 1)
    masks = masks_of(spec.OcclusionSpec(image_px=(height, width), patch_px=patch, grid=grid, fill=(0.0,)))
    covered = np.zeros((height - patch + 1, width - patch + 1), dtype=bool)
    for top, left, tall, wide in masks.windows:
        assert 0 <= top <= height - tall
        assert 0 <= left <= width - wide
        covered[top : top + tall - patch + 1, left : left + wide - patch + 1] = True
    assert covered.all()
    assert len(set(masks.windows)) == len(masks.windows) <= grid**2
    assert len(masks.windows) % masks.columns == 0


@pytest.mark.parametrize("shape", LAYOUTS.values(), ids=LAYOUTS)
def test_masks_cover_their_windows(shape: tuple[int, ...]) -> None:
    """A copy is the input with its windows in the colour, channel by channel, in each layout; also in chunks."""
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    x.flags.writeable = False
    colour = (0.25,) if len(shape) == 2 else (2.0, 3.0, 4.0)
    mask = spec.Mask(image_px=(9, 12), window_px=(3, 5), covers=(((0, 0),), ((6, 7), (1, 2)), ()), fill=colour)
    made = copies(mask, x, 3, np.random.default_rng(0), BOUNDS)
    across = {"HW": lambda a: a[..., None], "CHW": lambda a: np.moveaxis(a, 0, -1), "HWC": lambda a: a}
    view = next(across[name] for name, dims in LAYOUTS.items() if dims == shape)
    for copy, places in zip(made, mask.covers, strict=True):
        expected = view(x).copy()
        for top, left in places:
            expected[top : top + 3, left : left + 5] = colour
        assert np.array_equal(view(copy), expected)
    chunk = np.empty((4, *shape), dtype=np.float32)
    fill(mask, [Wanted(x, 2, start=1), Wanted(x + 1, 1), Wanted(x, 1)], chunk, BOUNDS)
    assert np.array_equal(chunk[[0, 1, 3]], made[[1, 2, 0]])
    assert view(chunk[2])[0, 0].tolist() == list(colour)
    assert view(chunk[2])[8, 11] == pytest.approx(view(x)[8, 11] + 1)


def test_masks_are_for_one_size() -> None:
    """Masks for images of another size are a configuration error that says what to do."""
    mask = spec.Mask(image_px=(9, 12), window_px=(3, 3), covers=(((0, 0),),), fill=(0.0,))
    with pytest.raises(ConfigError, match=r"\(9, 12\) pixels.*\(12, 9\).*calibrate again"):
        copies(mask, np.zeros((12, 9), dtype=np.float32), 1, np.random.default_rng(0), BOUNDS)


def test_specs() -> None:
    """A spec survives JSON, is in the second stage, counts in one direction, and refuses a sticker that hides all."""
    adapter: TypeAdapter[spec.DetectorSpec] = TypeAdapter(spec.DetectorSpec)
    assert adapter.validate_json(adapter.dump_json(SMALL)) == SMALL
    (detector,) = build_detectors((SMALL,))
    assert (detector.name, detector.stage) == ("occlusion", 1)
    assert not isinstance(SMALL, spec.TWO_SIDED)
    with pytest.raises(ValidationError, match="a sticker of 6 pixels"):
        spec.OcclusionSpec(image_px=(9, 6), patch_px=6, fill=(0.0,))


def answers(model: Respond, x: Float32Array) -> Callable[[Probes], Tensor]:
    """What a model says of copies."""

    def answer(probes: Probes) -> Tensor:
        made = np.empty((probes.copies, *x.shape), dtype=np.float32)
        fill(probes.source.mutation, [Wanted(x, probes.copies, start=probes.start)], made, BOUNDS)
        return model(torch.from_numpy(made))

    return answer


def occlude(model: Respond, x: Float32Array, masking: spec.OcclusionSpec) -> tuple[Evidence, Occlusion]:
    """A trial on one image, run to its end."""
    trial = OcclusionTrial(masking, masks_of(masking))
    evaluations = drive(trial, answers(model, x))
    finding = trial.finding()
    assert isinstance(finding, Evidence)
    assert finding.occlusion is not None
    assert finding.evaluations == evaluations - 1
    return finding, finding.occlusion


def bright(x: Tensor) -> Tensor:
    """Class 1 for images that are brighter than grey on average: whatever a sticker can do, black and white do."""
    excess = x.flatten(1).mean(dim=1) - 0.5
    return torch.stack([-excess, excess], dim=1) * 100


def with_sticker(x: Float32Array, top: int, left: int, value: float) -> Float32Array:
    """An image with a uniform sticker of two pixels a side."""
    made = x.copy()
    made[top : top + 2, left : left + 2] = value
    return made


def recovered(images: list[Float32Array]) -> list[int | None]:
    """The labels of `bright` by double masking, from copies that are made at once."""
    places = [window[:2] for window in masks_of(SMALL).windows]
    covers = tuple((one, other) for one in places for other in places)
    height, width = masks_of(SMALL).windows[0][2:]
    mask = spec.Mask(image_px=(6, 6), window_px=(height, width), covers=covers, fill=SMALL.fill)
    made = np.empty((len(images) * len(covers), 6, 6), dtype=np.float32)
    fill(mask, [Wanted(image, len(covers)) for image in images], made, BOUNDS)
    tables = bright(torch.from_numpy(made)).argmax(dim=1).numpy().reshape(len(images), len(places), len(places))
    return [decide(table, "recover")[0].label for table in tables]


def test_certificates_hold() -> None:
    """No sticker of the certified size, anywhere, takes a certified label, though some take others."""
    rng = np.random.default_rng(1)
    certified = taken = 0
    for _ in range(24):
        x = np.clip(rng.normal(rng.choice([0.3, 0.5, 0.56]), 0.1, (6, 6)), 0, 1).astype(np.float32)
        _, before = occlude(bright, x, SMALL)
        worst = 0.0 if before.recovered else 1.0
        stuck = [with_sticker(x, *place, worst) for place in np.ndindex(5, 5)]
        changed = any(label != before.recovered for label in recovered(stuck))
        taken += changed
        if before.certified_px is not None:
            certified += 1
            assert before.certified_px == SMALL.patch_px
            assert not changed
    assert certified > 5
    assert taken > 5


def test_certificate_needs_all_pairs() -> None:
    """One pair of masks with another label, and there is no certificate; the label is that of the single masks."""
    masks = masks_of(SMALL)
    x = np.zeros((6, 6), dtype=np.float32)

    def except_one_pair(copies: Tensor) -> Tensor:
        (top, left, height, width), (top_2, left_2, *_) = masks.windows[1], masks.windows[7]
        both = copies[:, [top, top_2], [left, left_2]].eq(0.5).all(dim=1)
        both &= copies[:, [top + height - 1, top_2 + height - 1], [left + width - 1, left_2 + width - 1]].eq(0.5).all(1)
        outside = copies.flatten(1).eq(0.5).sum(dim=1) == len(set(cells(1)) | set(cells(7)))
        return torch.stack([torch.ones(len(copies)), 2 * (both & outside).float()], dim=1)

    def cells(mask: int) -> list[tuple[int, int]]:
        top, left, height, width = masks.windows[mask]
        return [(top + down, left + along) for down in range(height) for along in range(width)]

    steady, found = occlude(lambda copies: torch.tensor([1.0, 0.0]).expand(len(copies), 2), x, SMALL)
    assert (steady.evaluations, found.recovered, found.certified_px) == (9 + 36, 0, 2)
    _, found = occlude(except_one_pair, x, SMALL)
    assert (found.recovered, found.certified_px) == (0, None)


def test_score_and_heat() -> None:
    """The heat is the median margin less each one; the score its largest less the margin of the input itself."""
    masking = spec.OcclusionSpec(image_px=(6, 6), patch_px=2, grid=3, fill=(0.5,), pairs="skip")
    masks = masks_of(masking)
    trial = OcclusionTrial(masking, masks)
    own = torch.tensor([[4.0, 1.0]])
    lead = torch.tensor([3.0, 2.0, 5.0, -6.0, -1.0, 3.0, 4.0, 3.0, 6.0])
    assert drive(trial, lambda probes: own if probes is ITSELF else torch.stack([lead, torch.zeros(9)], dim=1)) == 10
    finding = trial.finding()
    assert isinstance(finding, Evidence)
    assert (finding.score, finding.evaluations) == (3 + 6 - 3, 9)
    assert finding.details == {"drop": 9.0, "label_change_rate": 2 / 9}
    assert finding.occlusion == Occlusion(
        heat=((0.0, 1.0, -2.0), (9.0, 4.0, 0.0), (-1.0, 0.0, -3.0)),
        hottest=masks.windows[3],
        tops=(0, 2, 3),
        lefts=(0, 2, 3),
    )


def stuck_on(net: nn.Module, images: Float32Array, labels: IntArray) -> tuple[Float32Array, IntArray]:
    """Digits with a sticker of three pixels a side that takes the label, made by gradient ascent; and where it is."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, 6, (len(images), 2))
    mask = torch.zeros(images.shape)
    for row, (top, left) in enumerate(places):
        mask[row, :, top : top + 3, left : left + 3] = 1
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    made = x * (1 - mask) + torch.from_numpy(rng.random(images.shape).astype(np.float32)) * mask
    for _ in range(60):
        made.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(made), y, reduction="sum"), made)
        made = (made.detach() + 0.1 * gradient.sign() * mask).clamp(0, 1)
    fooled = (net(made).argmax(dim=1) != y).numpy() & (net(x).argmax(dim=1) == y).numpy()
    return made.detach().numpy()[fooled], places[fooled]


def holds_most(window: tuple[int, ...], place: list[int]) -> bool:
    """Whether a window holds more than half of a sticker of three pixels a side."""
    spans = [min(window[axis] + window[2 + axis], place[axis] + 3) - max(window[axis], place[axis]) for axis in (0, 1)]
    return max(spans[0], 0) * max(spans[1], 0) > 4


def test_finds_stickers_on_digits(digits_data: DigitsData) -> None:
    """On a real model the hottest window holds most of the sticker far more often than others, and scores are high.

    It is a small model of images of eight pixels: a sticker of three takes what a digit rests on.
    """
    net = digits.trained_network()
    images, labels = digits_data.test

    def model(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return net(x)

    stickers, places = stuck_on(net, images[:80], labels[:80])
    assert len(stickers) >= 40
    windows = masks_of(DIGITS).windows
    found = [occlude(model, image, DIGITS) for image in stickers]
    hits = sum(holds_most(seen.hottest, place) for (_, seen), place in zip(found, places.tolist(), strict=True))
    chance = sum(holds_most(window, place) for window in windows for place in places.tolist()) / len(windows)
    assert hits > 1.7 * chance
    assert all(np.shape(seen.heat) == (3, 3) for _, seen in found)
    threshold = np.quantile([occlude(model, image, DIGITS)[0].score for image in images[80:]], 0.95)
    assert sum(finding.score > threshold for finding, _ in found) > 0.2 * len(stickers)


@contextmanager
def engine(respond: Respond, *, on_device: bool = False, image: tuple[int, ...] = (6, 6)) -> Iterator[Engine]:
    """An engine with this detector, whose replica answers for two classes in small batches."""
    backend = FakeBackend(respond, info=model_info(image, classes=2), batch=7)
    running = Engine(
        detectors=build_detectors((SMALL,)), backends={MODEL: backend}, secret=b"secret", on_device=on_device
    )
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_in_the_engine(on_device: bool) -> None:  # noqa: FBT001 - a table's column
    """Batches that cut rounds in pieces, and copies for a device, change nothing."""
    rng = np.random.default_rng(2)
    images = [np.clip(rng.normal(mean, 0.2, (6, 6)), 0, 1).astype(np.float32) for mean in (0.2, 0.48, 0.52, 0.6)]
    with engine(bright, on_device=on_device) as running:
        futures = [running.submit(image) for image in images]
        screenings = [future.result(TIMEOUT_S) for future in futures]
    for image, screening in zip(images, screenings, strict=True):
        expected, _ = occlude(bright, image, SMALL)
        assert untimed(screening)[1] == (expected,)
        assert screening.spent == {"label": 1, "occlusion": expected.evaluations}


def failing(copies: Tensor) -> Tensor:
    """Fail on copies that a mask covers."""
    if copies.eq(0.5).any():
        raise RuntimeError("no masks here")
    return bright(copies)


def test_faults() -> None:
    """A replica that fails or answers NaN under masks, or an image of another size, costs a fault."""
    x = np.full((6, 6), 0.9, dtype=np.float32)

    def nan(copies: Tensor) -> Tensor:
        return torch.where(copies.eq(0.5).flatten(1).any(dim=1)[:, None], torch.nan, bright(copies))

    for respond, image, reason in (
        (failing, x, FaultReason.BACKEND),
        (nan, x, FaultReason.NON_FINITE_OUTPUT),
        (bright, np.full((7, 6), 0.9, dtype=np.float32), FaultReason.DETECTOR),
    ):
        with capture_logs(), engine(respond, image=image.shape) as running:
            (finding,) = running.submit(image).result(TIMEOUT_S).findings
        assert isinstance(finding, Fault)
        assert finding.reason is reason


def test_half_way() -> None:
    """Without the single masks it abstains; without all pairs it scores, and claims neither label nor certificate."""
    masks = masks_of(SMALL)
    same, other = np.array([[2.0, 1.0]], dtype=np.float32), np.array([[1.0, 2.0]], dtype=np.float32)
    trial = OcclusionTrial(SMALL, masks)
    trial.tell(ITSELF, compare(same, np.array([0])))
    assert isinstance(trial.finding(), Abstention)
    logits = np.repeat(same, 9, axis=0)
    logits[4] = other
    trial.tell(masks.single, compare(logits, np.zeros(9, dtype=np.int64)))
    (probes,) = trial.ask()
    finding = trial.finding()
    assert isinstance(finding, Evidence)
    assert finding.occlusion is not None
    assert (finding.score, finding.occlusion.recovered, finding.occlusion.certified_px) == (1 + 1 - 1, None, None)
    trial.tell(probes, compare(np.repeat(same, probes.copies, axis=0), np.zeros(probes.copies, dtype=np.int64)))
    assert trial.ask() == ()
    assert trial.finding().occlusion.recovered == 0

    certifying = OcclusionTrial(SMALL, masks)
    for probes in certifying.ask():
        rows = np.repeat(same, probes.copies, axis=0)
        certifying.tell(probes, compare(rows, np.zeros(len(rows), dtype=np.int64)))
    *rest, last = certifying.ask()
    for probes in rest:
        rows = np.repeat(same, probes.copies, axis=0)
        certifying.tell(probes, compare(rows, np.zeros(len(rows), dtype=np.int64)))
    assert certifying.finding().occlusion.certified_px is None
    rows = np.repeat(same, last.copies, axis=0)
    certifying.tell(last, compare(rows, np.zeros(len(rows), dtype=np.int64)))
    assert certifying.finding().occlusion.certified_px == 2
