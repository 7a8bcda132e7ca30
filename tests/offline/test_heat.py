"""A heat map of an input on demand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from guard.errors import DataError, RequestError
from guard.model.onnx import inspect_onnx
from guard.offline.heat import heat_of
from guard.profile.profile import Canaries, Profile
from guard.profile.spec import ImagePreprocessing, OcclusionSpec, ServerPreprocessing
from tests.support.profiles import plain_profile

WEIGHT = 9.0


def looking_at(folder: Path, shape: tuple[int, ...], at: tuple[int, ...]) -> tuple[Profile, bytes]:
    """A model whose answer hangs on one value of its input, and a profile of it with black clean images."""
    weights = np.zeros((*shape, 2), np.float32)
    weights[(*at, 0)] = WEIGHT
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *dims])
        for name, dims in (("x", shape), ("y", (2,)))
    )
    w = helper.make_tensor("w", TensorProto.FLOAT, (int(np.prod(shape)), 2), weights.ravel())
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    graph = helper.make_graph(nodes, "one", [x], [y], [w])
    file = folder / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    info = inspect_onnx(file, name="one", bounds=(0.0, 1.0), dims=shape)
    black = Canaries(np.zeros((4, *shape), np.float32), np.zeros((4, 2), np.float32))
    return replace(plain_profile(), model=info, canaries=black), file.read_bytes()


@pytest.mark.parametrize(
    ("shape", "at"),
    [((1, 8, 8), (0, 6, 1)), ((1, 3, 5), (0, 0, 4)), ((3, 40, 28), (2, 20, 20)), ((16, 12, 3), (3, 9, 0))],
    ids=["8x8", "3x5", "40x28x3", "16x12x3, channels last"],
)
def test_where_the_answer_hangs(tmp_path: Path, shape: tuple[int, ...], at: tuple[int, ...]) -> None:
    """The part of an image of any size that the model looks at takes the whole margin with it, and is hottest."""
    profile, model = looking_at(tmp_path, shape, at)
    seen = heat_of(np.ones(shape, np.float32), profile, model)
    row, column = at[:2] if shape[-1] == 3 else at[1:]
    top, left, height, width = seen.hottest
    assert top <= row < top + height
    assert left <= column < left + width
    heat = np.array(seen.heat)
    assert heat.max() == WEIGHT
    assert (heat == 0).mean() > 0.5


def test_the_masks_of_the_profile(tmp_path: Path) -> None:
    """Where the profile has masks, they are those that serving has, without pairs of them."""
    profile, model = looking_at(tmp_path, (1, 16, 16), (0, 1, 1))
    masks = OcclusionSpec(image_px=(16, 16), patch_px=4, grid=3, fill=(0.0,), pairs="certify")
    seen = heat_of(np.ones((1, 16, 16), np.float32), replace(profile, detectors=(*profile.detectors, masks)), model)
    assert (np.array(seen.heat).shape, seen.certified_px) == ((3, 3), None)


def test_an_encoded_image(tmp_path: Path) -> None:
    """An encoded image is read as in serving; what the server makes of one, nobody can cover."""
    profile, model = looking_at(tmp_path, (1, 8, 8), (0, 6, 1))
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(file, "PNG")
    own = ImagePreprocessing(input="IMAGE", size_px=(8, 8), colour="grey")
    top, left, height, width = heat_of(file.getvalue(), replace(profile, preprocessing=own), model).hottest
    assert top <= 6 < top + height
    assert left <= 1 < left + width
    servers = ServerPreprocessing(input="IMAGE", upstream_model="prepare", upstream_output="TENSOR")
    with pytest.raises(DataError, match="the guarded server makes this model's inputs"):
        heat_of(file.getvalue(), replace(profile, preprocessing=servers), model)
    with pytest.raises(RequestError, match="neither a JPEG nor a PNG"):
        heat_of(b"GIF89a", replace(profile, preprocessing=own), model)


@pytest.mark.parametrize(
    ("shape", "at", "complaint"),
    [((4,), (0,), "is no image"), ((1, 1, 9), (0, 0, 0), "1 x 9 pixels is too small")],
    ids=["no image", "a line"],
)
def test_what_has_no_parts(tmp_path: Path, shape: tuple[int, ...], at: tuple[int, ...], complaint: str) -> None:
    """What can't be covered in parts is said."""
    profile, model = looking_at(tmp_path, shape, at)
    with pytest.raises(DataError, match=complaint):
        heat_of(np.ones(shape, np.float32), profile, model)


def test_another_shape(tmp_path: Path) -> None:
    """An input of another shape than the profile's is refused."""
    profile, model = looking_at(tmp_path, (1, 8, 8), (0, 0, 0))
    with pytest.raises(DataError, match=r"has shape \[1, 9, 9\], and --profile is of \[1, 8, 8\]"):
        heat_of(np.ones((1, 9, 9), np.float32), profile, model)
