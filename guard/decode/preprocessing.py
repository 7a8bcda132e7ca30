"""From encoded images to what the model takes: the same way in calibration as in serving."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, Protocol, TypeAlias

import numpy as np
from PIL import Image

from guard.datatypes import held
from guard.decode.images import MAX_PIXELS, decode_image, scans_of, size_of
from guard.decode.turns import Steps, Turns, at_once
from guard.errors import BackendError, DeadlineExceeded, MalformedRequest
from guard.layout import of_model
from guard.profile.spec import ImagePreprocessing, Preprocessing, ServerPreprocessing
from guard.values import Float32Array, Layout, ModelInfo

_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}
_LEVELS: Final = 255.0
_THREADS: Final = 2
_FOREVER_S: Final = float("inf")

LARGEST_TOGETHER: Final = 4
"""A request's images may take as much work together as this many of the largest: a second, on one thread."""

USUAL_SCANS: Final = 10
"""Of a progressive JPEG, which with more of them is counted as more pixels than it has."""

Size: TypeAlias = tuple[int, int]


class Asked(Protocol):
    """A server that turns encoded images into tensors."""

    def ask(
        self, images: Sequence[bytes], *, model: str, input_name: str, output_name: str, timeout_s: float
    ) -> Float32Array:
        """A model's output for images, one row each.

        Raises:
            BackendError: it failed, or did not answer in time.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class ImageReader:
    """Turns encoded images into inputs of one model. `server` is asked where the profile names a model of its own.

    Close it, and with it the connection to the server.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        info: ModelInfo,
        *,
        max_pixels: int = MAX_PIXELS,
        server: Asked | None = None,
    ) -> None:
        self.preprocessing = preprocessing
        self._info = info
        self._max_pixels = max_pixels
        self._server = server
        self._turns = Turns(_THREADS, "guard-images")

    def submit(self, images: Sequence[bytes], timeout_s: float, client: str = "") -> Future[Float32Array]:
        """`read` on a thread, within a time that runs from now. Clients take turns.

        It fails with MalformedRequest, before any is decoded, if the images would be too much work together.
        """
        return self._turns.submit(self._steps(images, time.monotonic() + timeout_s, bounded=True), client)

    def close(self) -> None:
        """Stop the threads."""
        self._turns.close()
        if self._server is not None:
            self._server.close()

    @property
    def approximate(self) -> bool:
        """Whether the guarded server may see other values: its decoder and its resizing are not Guard's."""
        return isinstance(self.preprocessing, ImagePreprocessing)

    def read(self, images: Sequence[bytes], *, timeout_s: float = _FOREVER_S) -> Float32Array:
        """Inputs (n, *shape) of n images, as the model's data type holds them.

        Raises:
            MalformedRequest: an image can't be read.
            DeadlineExceeded: it took longer than the time given.
            BackendError: the guarded server could not preprocess them.
        """
        return at_once(self._steps(images, time.monotonic() + timeout_s))

    def _steps(self, images: Sequence[bytes], ends_s: float, *, bounded: bool = False) -> Steps[Float32Array]:
        if isinstance(self.preprocessing, ServerPreprocessing):
            return self._asked(self.preprocessing, images, ends_s - time.monotonic())
        if bounded:
            yield from _check_together(self.preprocessing, images, self._max_pixels, ends_s)
        inputs = yield from _decoded(self.preprocessing, images, self._max_pixels, ends_s)
        match of_model(self._info):
            case Layout.CHW:
                inputs = np.ascontiguousarray(np.moveaxis(inputs, -1, 1))
            case Layout.HW:
                inputs = inputs[..., 0]
            case _:
                pass
        return held(self._info.datatype, inputs)

    def _asked(self, preprocessing: ServerPreprocessing, images: Sequence[bytes], timeout_s: float) -> Float32Array:
        if self._server is None:
            raise BackendError(f"nobody can be asked for model {preprocessing.upstream_model!r}: name the upstream")
        answer = self._server.ask(
            images,
            model=preprocessing.upstream_model,
            input_name=preprocessing.upstream_input or preprocessing.input,
            output_name=preprocessing.upstream_output,
            timeout_s=timeout_s,
        )
        if answer.size != len(images) * np.prod(self._info.shape, dtype=int):
            raise BackendError(
                f"model {preprocessing.upstream_model!r} answered shape {list(answer.shape)} for {len(images)} images, "
                f"and the guarded model takes {list(self._info.shape)}"
            )
        if not np.isfinite(answer).all():
            raise MalformedRequest(f"model {preprocessing.upstream_model!r} makes NaN or infinity of an image")
        return held(self._info.datatype, answer.reshape(len(images), *self._info.shape))


def pixels(
    preprocessing: ImagePreprocessing,
    images: Sequence[bytes],
    *,
    max_pixels: int = MAX_PIXELS,
    timeout_s: float = _FOREVER_S,
) -> Float32Array:
    """Images decoded, resized and scaled: (n, height, width, channels).

    Raises:
        MalformedRequest: an image can't be read; of more than one, the message says which.
        DeadlineExceeded: it took longer than the time given.
    """
    return at_once(_decoded(preprocessing, images, max_pixels, time.monotonic() + timeout_s))


def bounds_of(preprocessing: ImagePreprocessing) -> tuple[float, float]:
    """The least and the largest value of a preprocessed image."""
    ends = [_scaled(preprocessing, np.full((1, 1, preprocessing.channels), value)) for value in (0.0, _LEVELS)]
    return float(min(end.min() for end in ends)), float(max(end.max() for end in ends))


def _check_together(
    preprocessing: ImagePreprocessing, images: Sequence[bytes], max_pixels: int, ends_s: float
) -> Steps[None]:
    """Refuse what is too much work together, as the images' headers tell."""
    works_px: list[float] = []

    def add(_index: int, data: bytes) -> None:
        works_px.append(_work_px(preprocessing, data, max_pixels))
        if sum(works_px) > LARGEST_TOGETHER * max_pixels:
            raise MalformedRequest(
                f"so far the images have more than {LARGEST_TOGETHER * max_pixels} pixels together, or are as much "
                f"work; that is {LARGEST_TOGETHER} times `limits.max_image_pixels`: send fewer or smaller ones"
            )

    yield from _with_each(images, add, ends_s)


def _decoded(
    preprocessing: ImagePreprocessing, images: Sequence[bytes], max_pixels: int, ends_s: float
) -> Steps[Float32Array]:
    height, width = preprocessing.size_px
    made = np.empty((len(images), height, width, preprocessing.channels), np.float32)

    def make(index: int, data: bytes) -> None:
        made[index] = _scaled(preprocessing, _sized(preprocessing, data, max_pixels))

    yield from _with_each(images, make, ends_s)
    return made


def _with_each(images: Sequence[bytes], do: Callable[[int, bytes], None], ends_s: float) -> Steps[None]:
    """Do something with each image, for as long as there is time."""
    for index, data in enumerate(images):
        if index:
            yield
        if time.monotonic() >= ends_s:
            raise DeadlineExceeded(f"{index} of {len(images)} images were read in the time allowed")
        try:
            do(index, data)
        except MalformedRequest as error:
            raise MalformedRequest(f"item {index} of {len(images)}: {error}") from error


def _work_px(preprocessing: ImagePreprocessing, data: bytes, max_pixels: int) -> float:
    """Pixels that decoding an image takes; or resizing it, beyond those that the model wants anyway."""
    width, height = size_of(data, max_pixels=max_pixels)
    decoded_px = width * height * max(1.0, scans_of(data) / USUAL_SCANS)
    resized_px = math.prod(_size_before_crop(preprocessing, (width, height), max_pixels))
    return max(decoded_px, resized_px - math.prod(preprocessing.size_px))


def _sized(preprocessing: ImagePreprocessing, data: bytes, max_pixels: int) -> Float32Array:
    """Pixels (height, width, channels) from 0 to 255."""
    grey = preprocessing.colour == "grey"
    image = decode_image(data, colour="L" if grey else "RGB", orient=preprocessing.orient, max_pixels=max_pixels)
    height, width = preprocessing.size_px
    size = _size_before_crop(preprocessing, image.size, max_pixels)
    image = _resized(image, size, preprocessing.filter)
    if size != (width, height):
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    found = np.asarray(image, np.float32)
    return found[..., None] if grey else found


def _size_before_crop(preprocessing: ImagePreprocessing, size: Size, max_pixels: int) -> Size:
    """Width and height to which an image is resized before the middle is cut out."""
    if preprocessing.shorter_side_px is None:
        return preprocessing.size_px[1], preprocessing.size_px[0]
    scale = preprocessing.shorter_side_px / min(size)
    resized = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    if math.prod(resized) > max_pixels:
        raise MalformedRequest(f"the image is too long for its width: resized it would have {resized} pixels")
    return resized


def _resized(image: Image.Image, size: Size, resample: str) -> Image.Image:
    return image if image.size == size else image.resize(size, _FILTERS[resample])


def _scaled(preprocessing: ImagePreprocessing, found: Float32Array) -> Float32Array:
    ordered = found[..., ::-1] if preprocessing.colour == "bgr" else found
    mean, std = (np.array(each, np.float32) for each in (preprocessing.mean, preprocessing.std))
    scaled: Float32Array = (ordered * np.float32(preprocessing.scale) - mean) / std
    return scaled.astype(np.float32, copy=False)
