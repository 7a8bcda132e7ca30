"""From encoded images to what the model takes: the same way in calibration as in serving."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, TypeAlias

import numpy as np
from PIL import Image

from guard.datatypes import held
from guard.decode.images import MAX_PIXELS, decode_image
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
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="guard-images")

    def submit(self, images: Sequence[bytes], timeout_s: float) -> Future[Float32Array]:
        """`read` on a thread, within a time that runs from now."""
        ends_s = time.monotonic() + timeout_s
        return self._threads.submit(lambda: self.read(images, timeout_s=ends_s - time.monotonic()))

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(cancel_futures=True)
        if self._server is not None:
            self._server.close()

    @property
    def approximate(self) -> bool:
        """Whether the guarded server may see other values: its decoder and its resizing are not Guard's."""
        return isinstance(self.preprocessing, ImagePreprocessing)

    def read(self, images: Sequence[bytes], *, timeout_s: float = float("inf")) -> Float32Array:
        """Inputs (n, *shape) of n images, as the model's data type holds them.

        Raises:
            MalformedRequest: an image can't be read.
            DeadlineExceeded: it took longer than the time given.
            BackendError: the guarded server could not preprocess them.
        """
        if isinstance(self.preprocessing, ServerPreprocessing):
            return self._asked(self.preprocessing, images, timeout_s)
        inputs = pixels(self.preprocessing, images, max_pixels=self._max_pixels, timeout_s=timeout_s)
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
    timeout_s: float = float("inf"),
) -> Float32Array:
    """Images decoded, resized and scaled: (n, height, width, channels).

    Raises:
        MalformedRequest: an image can't be read; of more than one, the message says which.
        DeadlineExceeded: it took longer than the time given.
    """
    ends_s = time.monotonic() + timeout_s
    height, width = preprocessing.size_px
    made = np.empty((len(images), height, width, preprocessing.channels), np.float32)
    for index, data in enumerate(images):
        if time.monotonic() >= ends_s:
            raise DeadlineExceeded(f"{index} of {len(images)} images were decoded in the time allowed")
        try:
            made[index] = _scaled(preprocessing, _sized(preprocessing, data, max_pixels))
        except MalformedRequest as error:
            raise MalformedRequest(f"item {index} of {len(images)}: {error}") from error
    return made


def bounds_of(preprocessing: ImagePreprocessing) -> tuple[float, float]:
    """The least and the largest value of a preprocessed image."""
    ends = [_scaled(preprocessing, np.full((1, 1, preprocessing.channels), value)) for value in (0.0, _LEVELS)]
    return float(min(end.min() for end in ends)), float(max(end.max() for end in ends))


def _sized(preprocessing: ImagePreprocessing, data: bytes, max_pixels: int) -> Float32Array:
    """Pixels (height, width, channels) from 0 to 255."""
    grey = preprocessing.colour == "grey"
    image = decode_image(data, colour="L" if grey else "RGB", orient=preprocessing.orient, max_pixels=max_pixels)
    height, width = preprocessing.size_px
    if preprocessing.shorter_side_px is None:
        image = _resized(image, (width, height), preprocessing.filter)
    else:
        scale = preprocessing.shorter_side_px / min(image.size)
        size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        if size[0] * size[1] > max_pixels:
            raise MalformedRequest(f"the image is too long for its width: resized it would have {size} pixels")
        image = _resized(image, size, preprocessing.filter)
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    found = np.asarray(image, np.float32)
    return found[..., None] if grey else found


def _resized(image: Image.Image, size: Size, resample: str) -> Image.Image:
    return image if image.size == size else image.resize(size, _FILTERS[resample])


def _scaled(preprocessing: ImagePreprocessing, found: Float32Array) -> Float32Array:
    ordered = found[..., ::-1] if preprocessing.colour == "bgr" else found
    mean, std = (np.array(each, np.float32) for each in (preprocessing.mean, preprocessing.std))
    scaled: Float32Array = (ordered * np.float32(preprocessing.scale) - mean) / std
    return scaled.astype(np.float32, copy=False)
