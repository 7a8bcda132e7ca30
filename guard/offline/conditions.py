"""What happens to images on their way: what a deployment expects, an attacker's laundering, the drift of honest ones.

All on 8-bit images (see `view`), and back to 8 bits. Conditions in space are for images only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import cv2
import numpy as np

from guard.offline.options import RANGES
from guard.offline.view import Bytes, from_bytes, to_bytes
from guard.profile import spec
from guard.values import Float32Array, IntArray

Change: TypeAlias = Callable[[Bytes, float, np.random.Generator], Bytes]
_JPEG_CHANNELS = (1, 3)
_LEVELS = 255
_LEAST_SIDE = 2


@dataclass(frozen=True, slots=True)
class Condition:
    """One change of images: its kind, how strong it is in words and as the number that `change` takes."""

    kind: str
    setting: str
    change: Change
    strength: float
    images_only: bool = True

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"{self.kind} {self.setting}"

    def within(self, declared: Sequence[spec.Condition]) -> bool:
        """Whether it is no more severe than one of the declared conditions."""
        milder = {"jpeg": 1.0, "resize": 1.0}.get(self.kind.lower(), -1.0)
        return any(each.kind == self.kind.lower() and milder * self.strength >= milder * each.most for each in declared)

    def __call__(self, images: Bytes, seed: int) -> Bytes:
        """Change images, (n, *shape); the same seed makes the same."""
        if not len(images):
            return images
        return self.change(images, self.strength, np.random.default_rng(seed))


def _jpeg(images: Bytes, quality: float, rng: np.random.Generator) -> Bytes:
    if images.shape[1] not in _JPEG_CHANNELS:  # JPEG knows no other: each channel as a grey image
        planes = images.reshape(-1, 1, *images.shape[2:])
        return _jpeg(planes, quality, rng).reshape(images.shape)
    made = np.empty_like(images)
    for row, image in enumerate(images):
        last = np.ascontiguousarray(np.moveaxis(image, 0, -1)[..., ::-1])  # OpenCV has blue first
        _, encoded = cv2.imencode(".jpg", last, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
        decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)).reshape(last.shape)
        made[row] = np.moveaxis(decoded[..., ::-1], -1, 0)
    return made


def _noise(images: Bytes, levels: float, rng: np.random.Generator) -> Bytes:
    noise = rng.normal(0, levels / _LEVELS, images.shape)
    return to_bytes((from_bytes(images) + noise).astype(np.float32))


def _resize(images: Bytes, share: float, rng: np.random.Generator) -> Bytes:  # noqa: ARG001 - as _jpeg
    height, width = images.shape[-2:]
    small = max(_LEAST_SIDE, round(width * share)), max(_LEAST_SIDE, round(height * share))

    def there_and_back(plane: Float32Array) -> Float32Array:
        less = cv2.resize(plane, small, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(less, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)

    return _each_plane(images, there_and_back)


def _blur(images: Bytes, sigma: float, rng: np.random.Generator) -> Bytes:  # noqa: ARG001 - as _jpeg
    return _each_plane(images, lambda plane: np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32))


def _brightness(images: Bytes, share: float, rng: np.random.Generator) -> Bytes:
    """Lighter or darker, as chance has it, by whole levels: half a level more would leave even ones only."""
    levels = np.float32(round(share * _LEVELS) / _LEVELS)
    return to_bytes(from_bytes(images) + levels * _signs(images, rng))


def _contrast(images: Bytes, share: float, rng: np.random.Generator) -> Bytes:
    """More or less, as chance has it, about each image's mean."""
    x = from_bytes(images)
    mean = x.mean(axis=tuple(range(1, x.ndim)), keepdims=True)
    return to_bytes(mean + (x - mean) * (1 + np.float32(share) * _signs(images, rng)))


def _signs(images: Bytes, rng: np.random.Generator) -> Float32Array:
    signs = rng.choice([-1.0, 1.0], size=(len(images), *[1] * (images.ndim - 1)))
    return signs.astype(np.float32)


def _each_plane(images: Bytes, change: Callable[[Float32Array], Float32Array]) -> Bytes:
    planes = from_bytes(images).reshape(-1, *images.shape[-2:])
    return to_bytes(np.stack([change(plane) for plane in planes]).reshape(images.shape))


_CHANGES: Final[dict[str, Change]] = {
    "jpeg": _jpeg,
    "blur": _blur,
    "resize": _resize,
    "brightness": _brightness,
    "contrast": _contrast,
    "noise": _noise,
}
_UNCHANGED: Final = {"jpeg": 100.0, "resize": 1.0}
_ANYWHERE: Final = frozenset({"brightness", "contrast", "noise"})

EXPECTED: Final = (
    spec.Condition(kind="jpeg", most=70),
    spec.Condition(kind="blur", most=0.6),
    spec.Condition(kind="resize", most=0.75),
    spec.Condition(kind="brightness", most=0.1),
    spec.Condition(kind="contrast", most=0.2),
    spec.Condition(kind="noise", most=4),
)
"""What a deployment is taken to expect where nobody says otherwise."""


class Drawn(NamedTuple):
    """Images (n, *shape), and the condition that each was put under, (n,), by its place among those declared."""

    images: Bytes
    chosen: IntArray


def drawn(declared: Sequence[spec.Condition], images: Bytes, rng: np.random.Generator) -> Drawn:
    """Images (n, *shape), each under one of the declared conditions, as many under each, half as severe as it may be.

    The others are as severe as chance has it, down to next to nothing, which can look most like a perturbation.
    """
    made = images.copy()
    if not declared:
        return Drawn(made, np.zeros(len(images), np.int64))
    choices = rng.permutation(np.arange(len(images)) % len(declared))
    for row, choice in enumerate(choices):
        condition = declared[choice]
        mildest = _UNCHANGED.get(condition.kind, 0.0)
        share = min(1.0, float(rng.uniform(0, 2)))
        low, high = RANGES[condition.kind]
        severity = min(max(mildest + (condition.most - mildest) * share, low), high)
        made[row] = _CHANGES[condition.kind](images[row : row + 1], severity, rng)[0]
    return Drawn(made, choices)


def possible(declared: Sequence[spec.Condition], *, image: bool) -> tuple[spec.Condition, ...]:
    """Those that can be had for inputs that are, or are not, images."""
    return tuple(each for each in declared if image or each.kind in _ANYWHERE)


LAUNDERING = (
    Condition("JPEG", "95", _jpeg, 95),
    Condition("JPEG", "85", _jpeg, 85),
    Condition("JPEG", "70", _jpeg, 70),
    Condition("noise", "2/255", _noise, 2, images_only=False),
    Condition("resize", "to 3/4 and back", _resize, 0.75),
)
"""What an attacker may do to an image, or a pipeline without meaning to, after it was made."""

DRIFT = (
    *(Condition("JPEG", f"{quality}", _jpeg, quality) for quality in (95, 85, 70, 50, 30)),
    *(Condition("blur", f"{sigma:g} px", _blur, sigma) for sigma in (0.4, 0.6, 0.8, 1.0, 1.5)),
    *(Condition("resize", f"to {share:.0%} and back", _resize, share) for share in (0.9, 0.75, 0.6, 0.5, 0.35)),
    *(
        Condition("brightness", f"± {share:.0%}", _brightness, share, images_only=False)
        for share in (0.02, 0.05, 0.1, 0.15, 0.2)
    ),
    *(
        Condition("contrast", f"± {share:.0%}", _contrast, share, images_only=False)
        for share in (0.05, 0.1, 0.2, 0.3, 0.5)
    ),
    *(Condition("noise", f"{levels}/255", _noise, levels, images_only=False) for levels in (1, 2, 4, 8, 16)),
)
"""Harmless change of honest images: six kinds, five severities each, mild to strong."""


def fitting(conditions: tuple[Condition, ...], *, image: bool) -> tuple[Condition, ...]:
    """Those that can be had for inputs that are, or are not, images."""
    return tuple(condition for condition in conditions if image or not condition.images_only)
