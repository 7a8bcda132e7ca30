"""Attackers who know Guard: they see what the engine sees, stay in their bounds, and win where others are caught."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from torch.nn import functional

from guard.decide.combination import Combination
from guard.decide.judge import Judge
from guard.errors import ConfigError
from guard.offline.evaluate import evasion
from guard.offline.evaluate.command import evaluate_to
from guard.offline.evaluate.craft import Victim
from guard.offline.evaluate.directions import ADAPTIVE, METHODS, Effort, Task
from guard.offline.evaluate.kept import Kept
from guard.offline.evaluate.knowing import Knower
from guard.offline.evaluate.pursuits import OBLIVIOUS, SMALLEST, Pursuit, most, pursuits
from guard.offline.evaluate.rebuilt import margins, mutated
from guard.offline.evaluate.request import Request
from guard.offline.evaluate.screening import Screen, screen
from guard.offline.evaluate.suite import SUITE, choose, knowing_named
from guard.offline.evaluate.target import Answers
from guard.offline.evaluate.twin import Twin
from guard.offline.progress import quiet
from guard.offline.scoring import running_engine, screen_all
from guard.offline.view import Bytes, View, from_bytes
from guard.profile import spec, store
from guard.profile.profile import Profile
from guard.screen.mutations import copies
from guard.values import Evidence, IntArray, ModelInfo, OutputKind
from tests.offline.evaluate.conftest import Report
from tests.offline.evaluate.test_report import Page
from tests.support import digits
from tests.support.profiles import digits_backend, digits_profile

RATES = (0.05, 0.01)
MANY = 200
NOISES: tuple[spec.RandomMutation, ...] = (
    spec.Gaussian(sigma=0.1),
    spec.Uniform(width=0.2),
    spec.ShiftRotate(),
    spec.ContrastBrightness(),
)


@cache
def every_detector() -> Profile:
    """The digits' profile with a detector of each kind; what is new has the benign scores of another."""
    profile = digits_profile()
    never = {"p0": 0.49, "p1": 0.51, "alpha": 1e-9, "beta": 1e-9, "cap": MANY}
    added: list[spec.DetectorSpec] = [
        spec.SensitivitySpec.model_validate({"mutation": each, **never}) for each in NOISES
    ]
    squeezers = (spec.BitDepth(bits=2), spec.Median(), spec.NonLocalMeans())
    added.append(spec.SqueezingSpec(squeezers=squeezers))
    added.append(spec.OcclusionSpec(image_px=(8, 8), patch_px=3, grid=3, fill=(0.5,)))
    names = {each.name for each in added}
    kept = [each for each in profile.detectors if each.name not in names]
    parts = [
        replace(part, scores=dict(part.scores) | dict.fromkeys(names, part.scores["confidence"]))
        for part in (profile.reference, profile.calibration)
    ]
    return replace(profile, detectors=(*kept, *added), reference=parts[0], calibration=parts[1])


@cache
def seen() -> tuple[Bytes, IntArray]:
    """Digits that the model gets right, in 8 bits, and their labels."""
    images, labels = digits.load_data().test
    answers = Answers(digits_backend())
    shown = answers.view.view(images)
    right = answers.labels(shown) == labels
    return shown[right], labels[right]


def test_it_scores_as_the_engine_does() -> None:
    """Of clean and attacked inputs, each detector's score is the engine's, those under noise but for the noise."""
    profile, backend = every_detector(), digits_backend()
    images, labels = digits.load_data().test
    attacked = digits.attack(digits.trained_network(), images[20:40], labels[20:40])
    shown = View(profile.model).view(np.concatenate([images[:20], attacked]))
    twin = Twin(profile, digits.trained_network())
    assert twin.ignored == {}
    assert twin.detectors == profile.scoring
    with torch.no_grad():
        look = twin(torch.from_numpy(from_bytes(shown)), copies=MANY, rng=torch.Generator().manual_seed(0))
    with running_engine(backend, profile.detectors, profile.files, secret=b"secret") as engine:
        found = list(screen_all(engine, twin.view.own(shown)))
    assert look.logits.argmax(dim=1).tolist() == [each.label for each in found]
    for place, name in enumerate(twin.detectors):
        theirs = [f.score for each in found for f in each.findings if isinstance(f, Evidence) and f.detector == name]
        mine = look.scores[:, place].numpy()
        noisy = name.startswith("sensitivity")
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2 if noisy else 1e-3)
        assert abs(mine.mean() - np.mean(theirs)) < (0.2 if noisy else 1e-3)
        assert np.corrcoef(mine, theirs)[0, 1] > 0.98


@pytest.mark.parametrize("mutation", NOISES, ids=lambda each: each.kind)
@pytest.mark.parametrize("shape", [(1, 8, 8), (6, 9, 3), (7, 5)])
def test_noise(mutation: spec.RandomMutation, shape: tuple[int, ...]) -> None:
    """Copies are spread as the engine's are, value by value, whatever the layout and the bounds."""
    bounds = (-1.0, 3.0)
    info = ModelInfo("m", "x", "y", "FP32", shape, 3, bounds, OutputKind.LOGITS, "ab")
    x = np.random.default_rng(0).uniform(*bounds, shape).astype(np.float32)
    theirs = copies(mutation, x, 2000, np.random.default_rng(1), bounds)
    repeated = torch.from_numpy(np.repeat(x[None], 2000, axis=0))
    mine = mutated(mutation, repeated, View(info), torch.Generator().manual_seed(1)).numpy()
    assert mine.shape == theirs.shape
    for quantile in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(np.quantile(mine, quantile, 0), np.quantile(theirs, quantile, 0), atol=0.2)
    np.testing.assert_allclose(mine.mean(axis=0), theirs.mean(axis=0), atol=0.12)


def test_each_detector_can_be_led() -> None:
    """A small step along a detector's gradient lowers its score for most inputs, also where it squeezes."""
    twin = Twin(every_detector(), digits.trained_network())
    x = torch.from_numpy(from_bytes(seen()[0][:40]))
    labels = twin.logits(x).detach().argmax(dim=1)

    def scores(at: torch.Tensor) -> torch.Tensor:
        return twin(at, copies=8, rng=torch.Generator().manual_seed(0), labels=labels).scores

    for place, name in enumerate(twin.detectors):
        at = x.clone().requires_grad_(True)
        before = scores(at)[:, place]
        (gradient,) = torch.autograd.grad(before.sum(), at)
        assert gradient.flatten(1).abs().sum(dim=1).gt(0).float().mean() > 0.9, name
        step = 0.01 * functional.normalize(gradient.flatten(1), dim=1).reshape(x.shape)
        after = scores((x - step).clamp(0, 1))[:, place].detach()
        assert (after < before).float().mean() > 0.6, name


@pytest.mark.parametrize("suspicious", [0, 120])
@pytest.mark.parametrize("rate", RATES)
def test_the_limit(rate: float, suspicious: int) -> None:
    """An input is flagged at a rate where its combined surprise is above the limit, and only there.

    So too where the most suspicious calibration samples are all of one kind, and lower the threshold.
    """
    profile = digits_profile()
    order = np.argsort(-Combination(profile).of_all(profile.calibration))
    groups = np.isin(np.arange(len(order)), order[:suspicious]).astype(np.int64)
    profile = replace(profile, calibration=replace(profile.calibration, groups=groups))
    twin, judge = Twin(profile, digits.trained_network()), Judge(profile, false_positive_rate=rate)
    images, _ = digits.load_data().test
    with running_engine(digits_backend(), profile.detectors, profile.files, secret=b"secret") as engine:
        found = list(screen_all(engine, images[:100]))
    flagged = [(judge.judge(each).p_value or 0) <= judge.threshold for each in found]
    scores = torch.tensor(
        [
            [
                next(f.score for f in each.findings if isinstance(f, Evidence) and f.detector == name)
                for name in twin.detectors
            ]
            for each in found
        ]
    )
    assert 0 < sum(flagged) < len(flagged) or rate == RATES[1]
    assert profile.joint is not None
    combined = twin.combined(twin.surprises(scores))
    near = (combined - twin.limit(rate)).abs() < 0.02  # it is drawn as straight pieces
    assert near.float().mean() < 0.1
    assert ((combined > twin.limit(rate)) == torch.tensor(flagged))[~near].all()


@dataclass(frozen=True)
class Fight:
    """An attacker against a running engine."""

    knower: Knower
    screen: Screen
    folder: Path

    def kept(self) -> list[Any]:
        """What is kept of the attacks, oldest first."""
        files = sorted((self.folder / "attacks").glob("*.npz"), key=lambda file: file.stat().st_mtime_ns)
        return [dict(np.load(file)) for file in files]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    """The digits' engine and judges."""
    folder = tmp_path_factory.mktemp("screened")
    with screen(digits_profile(), digits_backend(), RATES, Kept(folder), 0) as found:
        yield found


@pytest.fixture
def fight(engine: Screen, tmp_path: Path) -> Fight:
    """Somebody who knows that engine's profile, and has attacked nothing yet."""
    net = digits.trained_network()
    victim = Victim(Answers(digits_backend()), net, True, "ab", digits.trained_network)
    twin = Twin(digits_profile(), net)
    return Fight(Knower(twin, victim, engine, Kept(tmp_path / "attacks"), 0, quiet()), engine, tmp_path)


def test_who_knows_wins_where_others_are_caught(fight: Fight) -> None:
    """At the same strength and with as many steps, knowledge of Guard passes it; numbers add up, image by image."""
    images, labels = seen()
    rows = [Pursuit(OBLIVIOUS, 0.3, 25), Pursuit("Adaptive PGD", 0.3, 25), Pursuit(OBLIVIOUS, 0.1, 10)]
    found = fight.knower.attack(rows, images[:16], labels[:16], honest=(images, labels))
    plain, adaptive, weak = found.rows
    assert (plain.knows, adaptive.knows) == (False, True)
    assert plain.fooled.count == adaptive.fooled.count == 16
    assert plain.won[0.05].count < 8
    assert adaptive.won[0.05].count >= 14
    assert adaptive.undefended == plain.fooled
    for row in found.rows:
        assert row.won[0.05].count <= row.won[0.01].count <= row.fooled.count <= row.fooled.of == 16
        assert all(each.count <= row.fooled.count for each in row.alone.values())
        assert set(row.alone) == set(digits_profile().scoring)
        assert row.largest is None or row.largest <= (row.linf or 0)
    assert plain.evaluations == plain.steps == 25
    assert adaptive.evaluations > adaptive.steps > 25
    assert [worst.linf for worst in found.worst] == [0.3, 0.1, None]
    assert found.worst[0].guarded[0.05].count >= adaptive.won[0.05].count
    assert found.worst[1].undefended == weak.fooled
    assert found.worst[2].guarded == found.worst[0].guarded


def test_a_detector_alone(fight: Fight) -> None:
    """Who attacks one detector passes that one more often than who attacks the whole, and Guard less often."""
    images, labels = seen()
    plain = Pursuit(ADAPTIVE, 0.3, 25)
    rows = [plain, *(replace(plain, against=name) for name in ("activations", "squeezing"))]
    found = fight.knower.attack(rows, images[:16], labels[:16], honest=(images, labels))
    whole, *singles = found.rows
    for row in singles:
        assert row.against is not None
        assert row.alone[row.against].count >= max(14, whole.alone[row.against].count)
        assert row.won[0.05].count < whole.won[0.05].count
    assert found.worst[-1].guarded[0.05] == whole.won[0.05]  # what was not aimed at Guard says nothing of its worst


@pytest.mark.parametrize("attack", [OBLIVIOUS, *METHODS, SMALLEST])
def test_what_is_made(fight: Fight, attack: str) -> None:
    """Images are 8-bit and within whole levels of the ball; those never misclassified are left as they were."""
    images, labels = seen()
    row = Pursuit(attack, None if attack == SMALLEST else 0.25, 12, rounds=2, copies=2)
    (found,) = fight.knower.attack([row], images[:6], labels[:6], honest=(images[:50], labels[:50])).rows
    (made,) = fight.kept()
    change = np.abs(made["images"].astype(int) - images[:6]).reshape(6, -1)
    assert made["images"].dtype == np.uint8
    assert found.fooled.count > 0
    if attack == SMALLEST:
        assert found.undefended is None
        assert found.l2 == pytest.approx(np.median(np.linalg.norm(change[change.any(axis=1)] / 255, axis=1)), abs=1e-5)
    else:
        assert change.max() <= 63  # of 63.75
    if attack != OBLIVIOUS:
        fooled = Answers(digits_backend()).labels(made["images"]) != labels[:6]
        np.testing.assert_array_equal(change.any(axis=1), fooled)


def test_what_was_made_is_kept(fight: Fight) -> None:
    """The same attack is not run again; another strength, seed or profile is another attack."""
    images, labels = seen()
    row = Pursuit("Adaptive PGD", 0.3, 4, copies=1)

    def run(knower: Knower, *rows: Pursuit) -> int:
        knower.attack(rows, images[:3], labels[:3], honest=(images[:20], labels[:20]))
        return len(fight.kept())

    assert [run(fight.knower, row), run(fight.knower, row)] == [1, 1]
    assert run(fight.knower, replace(row, linf=0.2)) == 2
    assert run(replace(fight.knower, seed=1), row) == 3
    other = Twin(replace(digits_profile(), reference=digits_profile().calibration), digits.trained_network())
    assert run(replace(fight.knower, twin=other), row) == 4
    assert run(fight.knower, row, replace(row, against="squeezing")) == 5


def test_rounding_is_part_of_the_search(fight: Fight) -> None:
    """What an attack found is what is sent: its cost is that of the 8-bit image."""
    images, labels = seen()
    x, twin = torch.from_numpy(from_bytes(images[:8])), fight.knower.twin
    effort = Effort(15, 1, 4, 0.0)
    task = Task(twin, x, torch.from_numpy(labels[:8]), torch.zeros(10, 10), effort, torch.Generator().manual_seed(0))
    best = evasion.bounded(task, 0.3, METHODS["Adaptive PGD"])
    assert torch.equal(evasion.snapped(best.images), best.images)
    with torch.no_grad():
        look = twin(best.images, copies=32, rng=task.rng)
    won = best.cost.isfinite()
    assert won.any()
    assert (margins(look.logits, task.labels) < 0).eq(won).all()
    assert (look.combined - best.cost)[won].abs().median() < 1


@pytest.fixture(scope="module")
def report(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A quick run of nothing but these attackers, on a profile with a network that they can't rebuild."""
    folder = tmp_path_factory.mktemp("knowing")
    profile = digits_profile()
    model = onnx.load_from_string(profile.files["network.onnx"])
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "QuickGelu", "com.microsoft"
    content = model.SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    detectors = [
        each.model_copy(update={"sha256": digest}) if each.name == "network" else each for each in profile.detectors
    ]
    files_of = dict(profile.files) | {"network.onnx": content}
    store.save(replace(profile, detectors=tuple(detectors), files=files_of), folder / "profile")
    request = Request(
        profile=folder / "profile",
        model=files / "digits.onnx",
        data=files / "test.npz",
        out=folder / "out",
        attacks=("KNOWING",),
        images=5,
        quick=True,
    )
    printed = io.StringIO()
    evaluate_to(request, Console(file=printed, width=120))
    out = folder / "out"
    results = json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)
    return Report(results, (out / "report.html").read_text(), out, printed.getvalue())


def test_the_results(report: Report) -> None:
    """They can be named alone; a detector that they can't rebuild is named with the reason, and still accuses."""
    assert report.results["attacks"] == report.results["worst_case"] == []
    found = report.results["knowing"]
    assert [(row["attack"], row["linf"], row["knows"]) for row in found["rows"]] == [
        ("PGD", 0.3, False),
        ("Adaptive PGD", 0.3, True),
    ]
    for row in found["rows"]:
        assert row["fooled"]["of"] == 5
        assert row["undefended"] == found["rows"][0]["fooled"]
        assert set(row["alone"]) == set(report.results["detectors"])
    assert set(found["ignored_detectors"]) == {"network"}
    assert "can't be made a torch module" in found["ignored_detectors"]["network"]
    assert [worst["linf"] for worst in found["worst_case"]] == [0.3, None]


def test_the_page_and_the_terminal(report: Report) -> None:
    """Both show each row and who won; the page says which detectors they had not rebuilt."""
    page = Page(report.page)
    assert page.open == []
    for shown in (page.text, report.output):
        assert "Adaptive PGD, L-inf 0.3" in shown
        assert "PGD, L-inf 0.3" in shown
    assert "Attackers who know Guard" in page.text
    assert "had not rebuilt every detector" in page.text
    assert "of images are lost to an attacker who knows Guard" in page.text
    assert "one who knows Guard on " in report.output
    assert "some attack" not in page.text + report.output
    assert "Laundered attacks" not in page.text


def test_the_rows() -> None:
    """Every attack at each strength beside plain PGD, more for greyscale; they run unless only others are named."""
    grey, colour = (
        pursuits(
            View(ModelInfo("m", "x", "y", "FP32", shape, 3, (0.0, 1.0), OutputKind.LOGITS, "ab")),
            ("network", "squeezing"),
            quick=False,
        )
        for shape in ((28, 28, 1), (3, 32, 32))
    )
    assert {row.linf for row in grey} == {0.1, 0.3, None}
    assert {row.linf for row in colour} == {8 / 255, None}
    for rows in (grey, colour):
        assert [(row.against, row.linf) for row in rows[-2:]] == [
            (name, max(each.linf or 0 for each in rows)) for name in ("network", "squeezing")
        ]
        whole = [row for row in rows if row.against is None]
        assert len({row.title for row in whole}) == len(whole)
        for level in {row.linf for row in rows} - {None}:
            assert {row.attack for row in rows if row.linf == level} == {OBLIVIOUS, *METHODS}
        assert [row.attack for row in rows if row.linf is None] == [SMALLEST]
    assert [most(None, quick=False), most(200, quick=False), most(3, quick=False), most(None, quick=True)] == [
        50,
        50,
        3,
        20,
    ]
    assert choose(("knowing",), quick=False, image=True) == ()
    assert {row.name for row in choose(("Knowing", "FGSM"), quick=False, image=True)} == {"FGSM"}
    assert choose((), quick=False, image=True) == SUITE
    assert [knowing_named(names) for names in ((), ("knowing", "PGD"), ("PGD",))] == [True, True, False]
    with pytest.raises(ConfigError, match=r"choose of FGSM.*Knowing"):
        choose(("knowin",), quick=False, image=True)
