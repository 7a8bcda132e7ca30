"""Clean samples as encoded images: by the very code that serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from pydantic import ValidationError

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

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_CANARIES = 8
_BATCH = 16


def read_preprocessing(file: Path) -> Preprocessing:
    """Read how encoded images become the model's input.

    Raises:
        ConfigError: it can't be read, or says something impossible.
    """
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"--preprocessing {file} can't be read ({exc.strerror}); check the path") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        mark, problem = getattr(exc, "problem_mark", None), getattr(exc, "problem", None)
        where = "" if mark is None else f":{mark.line + 1}"
        raise ConfigError(f"--preprocessing {file}{where}: this is not YAML: {problem or 'it is no text'}") from exc
    kind = ServerPreprocessing if isinstance(said, dict) and "upstream_model" in said else ImagePreprocessing
    try:
        return kind.model_validate(said)
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in exc.errors())
        raise ConfigError(f"--preprocessing {file}: {wrong}") from exc


def load_images(data: Path) -> tuple[bytes, ...]:
    """The JPEG and PNG files of a folder and its subfolders, in the order of their names.

    Raises:
        DataError: it is no folder, or has none.
    """
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in _SUFFIXES) if data.is_dir() else []
    if not files:
        raise DataError(f"{data} holds no images: beside --preprocessing, --data takes a folder of JPEG or PNG files")
    return tuple(file.read_bytes() for file in files)


def inputs_of(  # noqa: PLR0917 - what there is, and how it is to be seen
    preprocessing: Preprocessing,
    images: Sequence[bytes],
    data: Path,
    bounds: tuple[float, float],
    upstream: Link | None,
    reporter: Reporter,
) -> tuple[Float32Array, tuple[float, float]]:
    """Images as the model takes them, channels last where Guard makes them, and the bounds of their values.

    Raises:
        DataError: an image can't be read, or values are outside the bounds that were told.
        BackendError: the server can't preprocess them.
    """
    if isinstance(preprocessing, ImagePreprocessing):
        bounds = bounds_of(preprocessing)
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
    return checked(data, samples, bounds), bounds


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
