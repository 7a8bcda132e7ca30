"""Clean samples as encoded images: by the very code that serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from guard.channel import Link
from guard.decode.preprocessing import ImageReader, bounds_of, pixels
from guard.errors import ConfigError, DataError, MalformedRequest
from guard.model.backend import Backend
from guard.model.encoded import EncodedClient
from guard.offline.data import checked
from guard.offline.progress import Reporter
from guard.profile.profile import Canaries, Profile
from guard.profile.spec import ImagePreprocessing, Preprocessing, ServerPreprocessing
from guard.values import Float32Array

_CANARIES = 8
_BATCH = 16


def values_of(preprocessing: Preprocessing, told: tuple[float, float]) -> tuple[float, float]:
    """The bounds of preprocessed images: those that were told where the server makes them."""
    return bounds_of(preprocessing) if isinstance(preprocessing, ImagePreprocessing) else told


def inputs_of(  # noqa: PLR0917 - what there is, and how it is to be seen
    preprocessing: Preprocessing,
    images: Sequence[bytes],
    data: Path,
    bounds: tuple[float, float],
    upstream: Link | None,
    reporter: Reporter,
) -> Float32Array:
    """Images as the model takes them, channels last where Guard makes them.

    Raises:
        DataError: an image can't be read, or values are outside the bounds that were told.
        BackendError: the server can't preprocess them.
    """
    samples = decoded(preprocessing, images, data, upstream, reporter)
    return checked(data, samples, values_of(preprocessing, bounds))


def decoded(
    preprocessing: Preprocessing, images: Sequence[bytes], data: Path, upstream: Link | None, reporter: Reporter
) -> Float32Array:
    """The same of images that are too few to be checked.

    Raises:
        DataError: an image can't be read.
        BackendError: the server can't preprocess them.
    """
    server = _client(preprocessing, upstream)
    parts = []
    try:
        with reporter.stage("preprocessing images", len(images)) as advance:
            for at in range(0, len(images), _BATCH):
                part = images[at : at + _BATCH]
                parts.append(_made(preprocessing, part, server))
                advance(len(part))
    except MalformedRequest as exc:
        raise DataError(f"{data}: of the images from number {at} on, {exc}: correct or remove it") from exc
    finally:
        if server is not None:
            server.close()
    samples = np.concatenate(parts)
    if samples.shape[-1] == 1 and isinstance(preprocessing, ImagePreprocessing):
        samples = samples[..., 0]
    return samples


def with_images(
    profile: Profile, preprocessing: Preprocessing, images: Sequence[bytes], backend: Backend, upstream: Link | None
) -> Profile:
    """A profile that says how images are preprocessed, with some of them as canaries."""
    server = _client(preprocessing, upstream)
    reader = ImageReader(preprocessing, profile.model, server=server)
    encoded = tuple(dict.fromkeys(images))[:_CANARIES]
    try:
        inputs = reader.read(encoded)
    finally:
        reader.close()
    logits = backend.logits(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()
    return replace(profile, preprocessing=preprocessing, canaries=Canaries(inputs, logits, encoded))


def _client(preprocessing: Preprocessing, upstream: Link | None) -> EncodedClient | None:
    if upstream is None or not isinstance(preprocessing, ServerPreprocessing):
        return None
    return EncodedClient(upstream)


def _made(preprocessing: Preprocessing, images: Sequence[bytes], server: EncodedClient | None) -> Float32Array:
    if isinstance(preprocessing, ImagePreprocessing):
        return pixels(preprocessing, images)
    if server is None:
        raise ConfigError(f"preprocessing by model {preprocessing.upstream_model!r} needs --upstream, to ask it")
    return server.ask(
        images,
        model=preprocessing.upstream_model,
        input_name=preprocessing.upstream_input or preprocessing.input,
        output_name=preprocessing.upstream_output,
    )
