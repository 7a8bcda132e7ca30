"""A profile on disk: what is saved comes back, and whatever is damaged says so."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.errors import DataError, ProfileError
from guard.profile import spec
from guard.profile.profile import Profile
from guard.profile.store import ARRAYS, MANIFEST, load, save
from tests.profile.parts import NETWORK, NETWORK_SPEC, SMOOTHING_SPEC, a_profile, benign

GAUSSIAN = spec.SensitivitySpec(mutation=spec.Gaussian(sigma=0.1), p0=0.02, p1=0.2)
EVERY_KIND: tuple[spec.DetectorSpec, ...] = (
    spec.ConfidenceSpec(),
    NETWORK_SPEC,
    spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=3), spec.Median(size=5), spec.NonLocalMeans(h=8))),
    GAUSSIAN,
    spec.SensitivitySpec(mutation=spec.Uniform(width=0.2), p0=0.1, p1=0.4, undecided="abstain", cap=32),
    spec.SensitivitySpec(mutation=spec.ShiftRotate(max_shift_px=0.5), p0=0.02, p1=0.2),
    spec.SensitivitySpec(mutation=spec.ContrastBrightness(brightness=0.3), p0=0.02, p1=0.2),
    SMOOTHING_SPEC,
)
SCORES = [0.1, np.nan, -1e300]


def whole() -> Profile:
    """A profile with a detector of every kind."""
    names = [d.name for d in EVERY_KIND if d is not SMOOTHING_SPEC]
    scores = dict.fromkeys(names, SCORES)
    return a_profile(EVERY_KIND, benign([0, 1, 1], **scores), benign([1, 0, 2], **scores))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory with a whole profile."""
    save(whole(), tmp_path / "profile")
    return tmp_path / "profile"


def edit_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest in place, as a person with an editor would."""
    manifest = json.loads((directory / MANIFEST).read_text())
    change(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest))


def replace_arrays(directory: Path, content: bytes) -> None:
    """Put other bytes in place of the arrays and make the manifest agree, as an attacker would."""
    (directory / ARRAYS).write_bytes(content)
    edit_manifest(directory, lambda m: m.update(arrays_sha256=hashlib.sha256(content).hexdigest()))


def edit_arrays(directory: Path, **changes: np.ndarray | None) -> None:
    """Replace arrays, or leave them out (None), and make the manifest agree."""
    with np.load(directory / ARRAYS) as stored:
        arrays = {name: changes.get(name, values) for name, values in (dict(stored) | changes).items()}
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=True, **{name: values for name, values in arrays.items() if values is not None})
    replace_arrays(directory, packed.getvalue())


def edit_network(directory: Path, **changes: str) -> None:
    """Change what the manifest says of the detector network."""
    edit_manifest(directory, lambda m: m["detectors"][1].update(changes))


def test_radii_of_queries(saved: Path, tmp_path: Path) -> None:
    """How near near-duplicates are comes back; a profile from before there were such radii has none."""
    save(replace(whole(), query_radii=spec.QueryRadii(client=80, everyone=60)), tmp_path)
    assert load(tmp_path).query_radii == spec.QueryRadii(client=80, everyone=60)
    edit_manifest(saved, lambda m: m.pop("query_radii"))
    assert load(saved).query_radii is None


def test_known_attacks(saved: Path, tmp_path: Path) -> None:
    """The attacks for a self-test come back; a profile from before they were kept has none."""
    attacks = np.arange(6, dtype=np.float32).reshape(3, 2)
    save(replace(whole(), known_attacks=attacks), tmp_path)
    np.testing.assert_array_equal(load(tmp_path).known_attacks, attacks)
    assert load(saved).known_attacks is None
    edit_arrays(tmp_path, known_attacks=np.zeros((3, 7), np.float32))
    with pytest.raises(ProfileError, match="known attacks of another shape"):
        load(tmp_path)


def test_groups_of_benign_inputs(saved: Path, tmp_path: Path) -> None:
    """What was done to each sample comes back; a profile from before that was kept has nothing."""
    grouped = replace(whole().calibration, groups=np.array([0, 3, 3]))
    save(replace(whole(), calibration=grouped), tmp_path)
    np.testing.assert_array_equal(load(tmp_path).calibration.groups, [0, 3, 3])
    assert load(saved).calibration.groups is None
    edit_arrays(tmp_path, calibration_groups=np.array([0, 3]))
    with pytest.raises(ProfileError, match="more or fewer benign scores than labels"):
        load(tmp_path)


def test_round_trip(saved: Path) -> None:
    """A loaded profile equals the saved one, holes in its scores and all."""
    loaded, original = load(saved), whole()
    for part in ("model", "detectors", "provenance", "files", "scoring", "two_sided", "conditions"):
        assert getattr(loaded, part) == getattr(original, part), part
    for part in ("reference", "calibration"):
        scores, expected = getattr(loaded, part), getattr(original, part)
        np.testing.assert_array_equal(scores.labels, expected.labels)
        assert scores.scores.keys() == expected.scores.keys()
        for name, values in expected.scores.items():
            np.testing.assert_array_equal(scores.scores[name], values)
            assert scores.scores[name].dtype == np.float64
    np.testing.assert_array_equal(loaded.canaries.inputs, original.canaries.inputs)
    np.testing.assert_array_equal(loaded.canaries.logits, original.canaries.logits)
    np.testing.assert_array_equal(loaded.sample_hashes, original.sample_hashes)
    assert loaded.bytes_of(NETWORK_SPEC) == NETWORK


def test_certificates_do_not_score() -> None:
    """Smoothing is never among the detectors whose scores count; a network's scores count in one direction."""
    profile = whole()
    assert "smoothing" not in profile.scoring
    assert len(profile.scoring) == len(EVERY_KIND) - 1
    assert profile.two_sided == set(profile.scoring) - {"network"}


@pytest.mark.parametrize("name", [ARRAYS, MANIFEST])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    """Where a profile has no room its folder is named."""
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(DataError, match=rf"{tmp_path} can't be written \(No space left on device\); make room"):
        save(whole(), tmp_path)


def test_an_older_profile_is_replaced(saved: Path) -> None:
    """Saving into the directory of another profile leaves the new one there, whole."""
    newer = a_profile((spec.ConfidenceSpec(),), benign([0], confidence=[0.5]), benign([1], confidence=[0.25]))
    save(newer, saved)
    loaded = load(saved)
    assert loaded.detectors == newer.detectors
    assert loaded.calibration.scores["confidence"].tolist() == [0.25]
    assert loaded.files == {}


def shorten(directory: Path) -> None:
    """Cut the arrays short, as a full disk does."""
    (directory / ARRAYS).write_bytes((directory / ARRAYS).read_bytes()[:-40])


def corrupt_compressed(directory: Path) -> None:
    """Spoil the compressed data of the first array and leave the archive's own structure whole."""
    content = bytearray((directory / ARRAYS).read_bytes())
    start = content.index(b"canary_inputs.npy") + 40
    content[start : start + 8] = b"\xff" * 8
    replace_arrays(directory, bytes(content))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: (d / MANIFEST).unlink(), "holds no profile: profile.json is missing"),
        (lambda d: (d / ARRAYS).unlink(), "holds no profile: scores.npz is missing"),
        (lambda d: (d / MANIFEST).write_text("{"), "can't be read"),
        (lambda d: (d / MANIFEST).write_bytes(b"\xff\xfe"), "can't be read"),
        (lambda d: (d / MANIFEST).write_text("[]"), "is not a profile of format 3"),
        (lambda d: edit_manifest(d, lambda m: m.update(format=1)), "is not a profile of format 3"),
        (shorten, "is not the file that profile.json was written with"),
        (lambda d: replace_arrays(d, (d / ARRAYS).read_bytes()[:-40]), "is damaged"),
        (lambda d: replace_arrays(d, b""), "is damaged"),
        (lambda d: replace_arrays(d, b"\x93NUMPY\x01\x00\x06\x00{}    "), "is damaged"),
        (corrupt_compressed, "is damaged"),
        (lambda d: edit_arrays(d, canary_inputs=None), "is damaged .*canary_inputs"),
        (lambda d: edit_arrays(d, reference_labels=np.array(3)), "more or fewer benign scores than labels"),
        (lambda d: edit_arrays(d, calibration_score_network=np.zeros(2)), "more or fewer benign scores than labels"),
        (lambda d: edit_arrays(d, calibration_score_network=None), "lacks benign scores of some detectors"),
        (lambda d: edit_arrays(d, reference_score_other=np.zeros(3)), "lacks benign scores of some detectors"),
        (lambda d: edit_manifest(d, lambda m: m.pop("detectors")), "is damaged .*detectors"),
        (lambda d: edit_manifest(d, lambda m: m["detectors"][0].update(kind="oracle")), "is damaged .*oracle"),
        (lambda d: edit_manifest(d, lambda m: m["detectors"][0].update(extra=1)), "is damaged .*extra"),
        (lambda d: edit_manifest(d, lambda m: m["model"].pop("shape")), "is damaged .*shape"),
        (lambda d: edit_manifest(d, lambda m: m["model"].update(output_kind="votes")), "is damaged .*output_kind"),
        (lambda d: (d / "network.onnx").write_bytes(NETWORK + b"!"), "network.onnx was changed after calibration"),
        (lambda d: (d / "network.onnx").unlink(), "network.onnx can't be read"),
        (lambda d: edit_network(d, file="../outside.onnx"), "names a file outside the profile: '../outside.onnx'"),
        (lambda d: edit_network(d, file=str(d.parent / "outside.onnx")), "names a file outside the profile"),
        (lambda d: edit_network(d, file=".."), "can't be read"),
        (lambda d: edit_network(d, file="a\0b"), "is damaged"),
    ],
)
def test_damage_is_explained(saved: Path, damage: Callable[[Path], object], says: str) -> None:
    """Whatever is wrong with a profile is a ProfileError that says what, where, and how to get a good one."""
    (saved.parent / "outside.onnx").write_bytes(NETWORK)
    damage(saved)
    with pytest.raises(ProfileError, match=f"(?s){says}") as caught:
        load(saved)
    assert str(saved) in str(caught.value)
    assert str(caught.value).endswith("make it again with `guard calibrate`")


@pytest.mark.parametrize(
    ("name", "says"),
    [("absent", r"make it again with `guard calibrate`"), ("file", r"is no folder: name the one")],
)
def test_not_a_directory(tmp_path: Path, name: str, says: str) -> None:
    """A path where no directory is has no profile, and the error says so."""
    (tmp_path / "file").touch()
    with pytest.raises(ProfileError, match=says):
        load(tmp_path / name)


class Payload:
    """Whoever unpickles it makes a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.mkdir, (self._path,)


@pytest.mark.parametrize("packing", ["npz", "npy", "pickle"])
def test_nothing_executes_on_load(saved: Path, packing: str) -> None:
    """Python objects in the arrays are refused and never built, however they are packed."""
    trap = saved.parent / "sprung"
    hostile = np.array([Payload(trap)] * 3)
    if packing == "npz":
        edit_arrays(saved, reference_score_network=hostile)
    else:
        packed = io.BytesIO()
        np.save(packed, hostile, allow_pickle=True)
        replace_arrays(saved, packed.getvalue() if packing == "npy" else pickle.dumps(Payload(trap)))
    with pytest.raises(ProfileError, match="is damaged"):
        load(saved)
    assert not trap.exists()
    stored = np.load(saved / ARRAYS, allow_pickle=True)
    if packing == "npz":
        with stored:
            _ = stored["reference_score_network"]
    assert trap.exists(), "the trap works on whoever trusts the file"
