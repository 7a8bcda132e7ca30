"""A heat map on demand: of a recorded input that occlusion did not look at, or is not calibrated for."""

from __future__ import annotations

from typing import Final

from guard.decode.preprocessing import ImageReader
from guard.errors import DataError
from guard.layout import is_image, planes
from guard.model.onnx import OnnxBackend
from guard.offline.occlusion import PATCH_AREA, mean_colour, side_of
from guard.offline.scoring import running_engine, screen_all
from guard.profile.profile import Profile
from guard.profile.spec import ImagePreprocessing, OcclusionSpec
from guard.values import Evidence, Fault, Float32Array, Occlusion

_FINEST: Final = 8


def heat_of(came: bytes | Float32Array, profile: Profile, model: bytes) -> Occlusion:
    """What covering parts of an input shows: an encoded image, or values as the profile's model takes them.

    The masks are the profile's. Where it has none, as of tiny images, they are as fine as they get, and have the mean
    colour of the clean inputs that the profile keeps.

    Raises:
        DataError: it is no image, has another shape than the profile is of, or the model can't answer.
        RequestError: it is an encoded image that can't be read.
    """
    x = _read(came, profile) if isinstance(came, bytes) else came
    if x.shape != profile.model.shape:
        raise DataError(f"the input has shape {list(x.shape)}, and --profile is of {list(profile.model.shape)}")
    replica = OnnxBackend(model, profile.model)
    try:
        with running_engine(replica, (_masks(profile),), {}, secret=b"masks draw nothing") as engine:
            (finding,) = next(screen_all(engine, x[None])).findings
    finally:
        replica.close()
    if not isinstance(finding, Evidence) or finding.occlusion is None:
        reason = finding.reason if isinstance(finding, Fault) else "it has no answer"
        raise DataError(f"--model can't say what its answer hangs on ({reason})")
    return finding.occlusion


def _read(encoded: bytes, profile: Profile) -> Float32Array:
    """An encoded image as the model's input."""
    if not isinstance(profile.preprocessing, ImagePreprocessing):
        raise DataError("the guarded server makes this model's inputs of encoded images, so Guard has none to cover")
    reader = ImageReader(profile.preprocessing, profile.model)
    try:
        (x,) = reader.read((encoded,))
    finally:
        reader.close()
    found: Float32Array = x
    return found


def _masks(profile: Profile) -> OcclusionSpec:
    known = next((each for each in profile.detectors if isinstance(each, OcclusionSpec)), None)
    if known is not None:
        return known.model_copy(update={"pairs": "skip"})
    info, clean = profile.model, profile.canaries.inputs
    if not is_image(info.shape, info.layout):
        raise DataError(f"the input is no image, its shape being {list(info.shape)}")
    height, width = planes(clean[0], info.layout).shape[1:]
    patch_px = side_of(PATCH_AREA, height, width)
    if patch_px >= min(height, width):
        raise DataError(f"an image of {height} x {width} pixels is too small to be covered in parts")
    fill = mean_colour(clean, info.layout)
    return OcclusionSpec(image_px=(height, width), patch_px=patch_px, grid=_FINEST, fill=fill, pairs="skip")
