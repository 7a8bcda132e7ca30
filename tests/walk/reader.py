"""What a reader has when the walk begins: a copy of the repository with its environment, and files pages presume."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from guard.audit.verify import verify
from guard.inprocess import Guard
from guard.profile import store
from tests.audit.parts import written
from tests.support import digits
from tests.support.profiles import plain_profile
from tests.walk.documents import ROOT
from tests.walk.route import AUDIT, DECISION, HEAD
from tests.walk.walk import CLONE, STAND_INS

_BENIGN = 250
_SAMPLES = 40


def pack(folder: Path) -> None:
    """Put it all into a folder."""
    clone = folder / CLONE
    _clone(clone)
    _environment(Path(sys.prefix), clone / ".venv")
    if (triton := ROOT / ".venv-triton").is_dir():
        (clone / triton.name).symlink_to(triton)
    if (kserve := ROOT / ".venv-kserve").is_dir():
        _environment(kserve, clone / kserve.name)
    clean = digits.load_data().calibration[0]
    _own_model(clone)
    demo = _with_model(clone / "guard-demo")
    attacked = _attacked(demo)
    np.savez(demo / "clean.npz", inputs=clean)
    np.savez(demo / "attacks.npz", inputs=attacked)
    np.savez(_with_model(clone / "guard-example") / "samples.npz", clean=clean[:_SAMPLES], attacked=attacked)
    log = clone / "audit-log"
    written(log, "first", DECISION, "last", captured=True)
    for key in ("names", "captures"):
        (clone / f"audit-log.{key}").rename(clone / f"{key}.key")
    stand_ins = {AUDIT: log.name, "FOLDER": log.name, "ID": DECISION, HEAD: verify(log).last.hash}
    (folder / STAND_INS).write_text(json.dumps(stand_ins))


def _clone(clone: Path) -> None:
    """What git has or would take, as it is now, with a history that is about to begin."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=clone, check=True)


def _environment(there: Path, made: Path) -> None:
    """One that is there already, in the place of the one that make would make."""
    made.mkdir()
    for part in there.iterdir():
        if part.name != ".installed":
            (made / part.name).symlink_to(part)
    (made / ".installed").touch()


def _own_model(clone: Path) -> None:
    """A classifier of four numbers: networks for it are trained in seconds, and every page but those on images fits."""
    weights = np.array([[9, -3, 0], [-3, 9, 0], [0, 0, 9], [1, 1, -2]], np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("y", 3)))
    w = helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel())
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "linear", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, clone / "model.onnx")
    np.savez(clone / "benign.npz", inputs=np.random.default_rng(0).random((_BENIGN, 4), np.float32))


def _with_model(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(digits.onnx_file(), folder / "digits.onnx")
    store.save(plain_profile(), folder / "profile")
    return folder


def _attacked(demo: Path) -> np.ndarray:
    """Digits halfway to an attack on them, the clearest cases first: whatever noise is drawn, they are found."""
    clean, labels = (part[: 2 * _SAMPLES] for part in digits.load_data().test)
    attacked = (clean + 0.5 * (digits.attack(digits.trained_network(), clean, labels) - clean)).astype(np.float32)
    with Guard(demo / "profile", demo / "digits.onnx", screening_budget_s=60.0) as guard:
        p_values = [item.p_value for item in guard.screen(attacked).items]
    return attacked[np.argsort(p_values)[:_SAMPLES]]
