"""What can't be evaluated is refused with what to do, before anything is attacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from guard.errors import ConfigError, DataError, GuardError, ProfileError, ProfileMismatch, RateUnsupported
from guard.offline.evaluate.command import evaluate_to
from guard.offline.evaluate.request import Request
from tests.support import digits


@pytest.fixture(scope="module")
def bad(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are wrong in one way each, beside those that are right."""
    folder = tmp_path_factory.mktemp("bad")
    images, labels = digits.load_data().test
    other = onnx.load(files / "digits.onnx")
    other.doc_string = "trained again"
    onnx.save(other, folder / "again.onnx")
    np.savez(folder / "calibration.npz", images=digits.load_data().calibration[0])
    np.savez(folder / "shape.npz", images=np.random.default_rng(0).random((9, 1, 9, 9), np.float32))
    np.savez(folder / "wrong.npz", images=images, labels=(labels + 1) % 10)
    np.save(folder / "few.npy", labels[:5])
    np.save(folder / "eleven.npy", np.full(len(images), 11))
    np.save(folder / "real.npy", labels.astype(np.float64))
    np.savez(folder / "none.npz", something=labels)
    (folder / "broken.npy").write_bytes(b"this is no array")
    return folder


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"profile": "nowhere"}, ProfileError, "holds no profile"),
        ({"model": "nowhere.onnx"}, GuardError, r"--model .*nowhere.onnx can't be read \(No such file"),
        ({"model": "again.onnx"}, ProfileMismatch, "--model .*again.onnx is another model than the profile"),
        ({"data": "nowhere.npz"}, DataError, "nowhere.npz does not exist: --data takes"),
        ({"data": "shape.npz"}, DataError, r"samples of shape \[1, 9, 9\], and the profile's model takes \[1, 8, 8\]"),
        ({"data": "calibration.npz"}, DataError, r"that the profile was calibrated on \(\d+ of \d+\)"),
        ({"data": "wrong.npz"}, DataError, "the model gets none of the samples right"),
        ({"labels": "nowhere.npy"}, DataError, "--labels .*nowhere.npy does not exist: give an npy, or an npz"),
        ({"labels": "few.npy"}, DataError, r"shape \[5\]: give one integer for each of the 200 samples"),
        ({"labels": "eleven.npy"}, DataError, "labels from 11 to 11, and the model has classes 0 to 9"),
        ({"labels": "real.npy"}, DataError, "labels of type float64"),
        ({"labels": "none.npz"}, DataError, "--labels .*none.npz holds no labels"),
        ({"labels": "broken.npy"}, DataError, r"--labels .*broken.npy can't be read as numpy data"),
        ({"attacks": ("PDG",)}, ConfigError, "--attacks PDG: no attack is called that; choose of FGSM, BIM, PGD"),
        ({"rates": (5.0,)}, ConfigError, "--rate 5: give a share between 0 and 1"),
        ({"rates": (0.0001,)}, RateUnsupported, "a false-positive rate of 0.0001 needs 9999"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_mistakes(
    files: Path, bad: Path, tmp_path: Path, *, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    """Each mistake is named with the option that it was made in, and nothing was crafted."""
    paths = {
        "profile": files / "profile",
        "model": files / "digits.onnx",
        "data": files / "test.npz",
        "out": tmp_path / "out",
    }
    given = {key: bad / value if isinstance(value, str) else value for key, value in change.items()}
    with pytest.raises(error, match=says):
        evaluate_to(Request(**(paths | given)), Console(quiet=True))
    assert not list(tmp_path.glob("out/kept/*.npz")) or "wrong.npz" in str(given)


def test_a_folder_that_cannot_be_made(files: Path) -> None:
    """Where the report can't go is said before the work."""
    request = Request(files / "profile", files / "digits.onnx", files / "test.npz", files / "test.npz")
    with pytest.raises(ConfigError, match=r"--out .*test.npz can't be made a folder"):
        evaluate_to(request, Console(quiet=True))
