"""What a profile says of its detectors: their parameters, as frozen values that travel as JSON.

A mutation describes a kind of copy; `guard.screen.mutations` makes the copies.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(_Spec):
    """The input itself."""

    kind: Literal["identity"] = "identity"


class Gaussian(_Spec):
    """Isotropic Gaussian noise of deviation `sigma`, in units of the input, not clipped: smoothing needs it whole."""

    kind: Literal["gaussian"] = "gaussian"
    sigma: float = Field(gt=0)


class Uniform(_Spec):
    """Uniform noise in [-width, width], clipped to the model's bounds."""

    kind: Literal["uniform"] = "uniform"
    width: float = Field(gt=0)


class ShiftRotate(_Spec):
    """A shift of up to `max_shift_px` along each axis and a rotation of up to `max_degrees`, edges replicated."""

    kind: Literal["shift_rotate"] = "shift_rotate"
    max_shift_px: float = Field(1.0, ge=0)
    max_degrees: float = Field(10.0, ge=0)


class ContrastBrightness(_Spec):
    """Contrast scaled within [1 - contrast, 1 + contrast] about the mean, brightness moved by up to `brightness`.

    Both as shares of the input's range; clipped to the bounds.
    """

    kind: Literal["contrast_brightness"] = "contrast_brightness"
    contrast: float = Field(0.3, ge=0, lt=1)
    brightness: float = Field(0.15, ge=0)


class BitDepth(_Spec):
    """Values rounded to 2^bits levels over the bounds (Xu et al., 2018)."""

    kind: Literal["bit_depth"] = "bit_depth"
    bits: int = Field(ge=1, le=8)

    @property
    def name(self) -> str:
        """Key in a finding's details."""
        return f"{self.kind}_{self.bits}"


class Median(_Spec):
    """Median filter over `size` x `size` windows (Xu et al., 2018)."""

    kind: Literal["median"] = "median"
    size: Literal[3, 5] = 3

    @property
    def name(self) -> str:
        """Key in a finding's details."""
        return f"{self.kind}_{self.size}"


class NonLocalMeans(_Spec):
    """Non-local means of strength `h` on 8-bit levels, template and search windows in pixels (Buades et al., 2005)."""

    kind: Literal["non_local_means"] = "non_local_means"
    h: float = Field(4.0, gt=0)
    template_px: int = Field(3, ge=1)
    search_px: int = Field(13, ge=1)

    @property
    def name(self) -> str:
        """Key in a finding's details."""
        return f"{self.kind}_{self.h:g}"


class Mask(_Spec):
    """Windows of an image covered with one colour: copy i covers those whose (top, left) are in `covers[i]`, in pixels.

    The colour does not depend on the input, so that a copy says nothing of what it covers: certificates rest on that.
    """

    kind: Literal["mask"] = "mask"
    image_px: tuple[int, int]
    window_px: tuple[int, int]
    covers: tuple[tuple[tuple[int, int], ...], ...]
    fill: tuple[float, ...] = Field(min_length=1, description="one value, or one for each channel")


RandomMutation: TypeAlias = Annotated[
    Gaussian | Uniform | ShiftRotate | ContrastBrightness,
    Field(discriminator="kind"),
]
RANDOM = (Gaussian, Uniform, ShiftRotate, ContrastBrightness)
"""The mutations that draw something."""

Squeezer: TypeAlias = Annotated[BitDepth | Median | NonLocalMeans, Field(discriminator="kind")]
Mutation: TypeAlias = (
    Identity | Gaussian | Uniform | ShiftRotate | ContrastBrightness | BitDepth | Median | NonLocalMeans | Mask
)


class SensitivitySpec(_Spec):
    """Label-change rate and margins under a mutation, copies bought by Wald's test."""

    kind: Literal["sensitivity"] = "sensitivity"
    mutation: RandomMutation
    p0: float = Field(gt=0, lt=1, description="label-change rate of a stable input")
    p1: float = Field(gt=0, lt=1, description="label-change rate of a sensitive input")
    alpha: float = Field(0.01, gt=0, lt=0.5)
    beta: float = Field(0.05, gt=0, lt=0.5)
    first_chunk: int = Field(8, ge=1, description="copies bought before the first look at how many more it takes")
    cap: int = Field(64, ge=1, description="copies after which the test is truncated")
    undecided: Literal["sign", "abstain"] = Field(
        "sign", description="at the cap: decide by the sign of the log-likelihood ratio, or abstain"
    )

    @model_validator(mode="after")
    def _hypotheses_differ(self) -> Self:
        if self.p0 >= self.p1:
            raise ValueError(f"p0 = {self.p0:g} must be below p1 = {self.p1:g}")
        return self

    @property
    def name(self) -> str:
        """Label in metrics and findings."""
        return f"sensitivity_{self.mutation.kind}"


class SqueezingSpec(_Spec):
    """Largest L1 distance between softmax outputs on the input and on its squeezed copies (Xu et al., 2018)."""

    kind: Literal["squeezing"] = "squeezing"
    squeezers: tuple[Squeezer, ...] = Field(min_length=1)

    @property
    def name(self) -> str:
        """Label in metrics and findings."""
        return "squeezing"


class OcclusionSpec(_Spec):
    """How the answer moves when a window of the image is covered; the label by double masking (Xiang et al., 2022)."""

    kind: Literal["occlusion"] = "occlusion"
    image_px: tuple[int, int] = Field(description="height and width of the images")
    patch_px: int = Field(ge=1, description="side of the largest square sticker that some mask covers wherever it is")
    grid: int = Field(4, ge=2, le=8, description="most masks along each side")
    fill: tuple[float, ...] = Field(min_length=1, description="colour of masks: one value, or one for each channel")
    pairs: Literal["skip", "recover", "certify"] = Field(
        "recover", description="what pairs of masks are bought for: nothing, the label, or a certificate of it too"
    )

    @model_validator(mode="after")
    def _sticker_fits(self) -> Self:
        if self.patch_px >= min(self.image_px):
            raise ValueError(f"a sticker of {self.patch_px} pixels leaves nothing of images of {self.image_px}")
        return self

    @property
    def name(self) -> str:
        """Label in metrics and findings."""
        return "occlusion"


class SmoothingSpec(_Spec):
    """A certificate of an L2 radius by Gaussian smoothing."""

    kind: Literal["smoothing"] = "smoothing"
    sigma: float = Field(gt=0, description="deviation of the noise, in units of the input")
    radius: float = Field(gt=0, description="L2 radius to prove, in units of the input")
    alpha: float = Field(0.001, gt=0, lt=0.5, description="chance of a false certificate")
    first_chunk: int = Field(8, ge=1, description="copies bought before the first look at how many more it takes")
    cap: int = Field(64, ge=1)
    test: Literal["anytime", "fixed"] = Field(
        "anytime", description="stop as soon as the radius is proved or lost, or look once, at the cap"
    )

    @property
    def name(self) -> str:
        """Label in metrics and findings."""
        return "smoothing"


class ConfidenceSpec(_Spec):
    """Margin of the input's own label over the next class."""

    kind: Literal["confidence"] = "confidence"

    @property
    def name(self) -> str:
        """Label in metrics and findings."""
        return "confidence"


class NetworkSpec(_Spec):
    """A detector network, an ONNX file inside the profile.

    It looks at the input, at what the model computes inside, or at how the model's answer moves when a denoiser
    reconstructs the input; or it is an auxiliary model, whose disagreement with the guarded one counts.
    """

    kind: Literal["network"] = "network"
    on: Literal["input", "activations", "reconstruction", "auxiliary"] = "input"
    file: str = "network.onnx"
    sha256: str

    @property
    def name(self) -> str:
        """Label in metrics and findings, and the backend that answers for it."""
        return "network" if self.on == "input" else self.on


class ReducedReplica(_Spec):
    """The model in fewer bits, an ONNX file inside the profile, as the replica that was calibrated with."""

    precision: Literal["int8", "fp16"]
    file: str
    sha256: str
    speedup: float = Field(gt=0, description="how many times faster than the model it was where it was calibrated")
    agreement: float = Field(ge=0, le=1, description="share of clean samples with the model's own label")


class Condition(_Spec):
    """A harmless change of inputs that a deployment expects, up to a severity.

    `jpeg` is a quality, `blur` a deviation in pixels, `noise` one in 255ths of the range, `resize` a share of the side
    to scale down to and up again, `brightness` and `contrast` are shares.
    """

    kind: Literal["jpeg", "blur", "resize", "brightness", "contrast", "noise"]
    most: float = Field(gt=0, description="the severest that is expected")


class ImagePreprocessing(_Spec):
    """How Guard makes the model's input of an encoded image: decoded, resized, and (values * scale - mean) / std.

    With `shorter_side_px` the shorter side is resized to that and the middle of the image is cut out; without it both
    sides are resized.
    """

    input: str = Field(description="the served model's BYTES input")
    output: str | None = Field(None, description="its output, if it has another name than the replica's")
    size_px: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]] = Field(
        description="height and width of the model's input"
    )
    shorter_side_px: int | None = Field(None, ge=1, le=8192)
    filter: Literal["nearest", "bilinear", "bicubic", "box", "lanczos"] = "bilinear"
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    orient: bool = Field(default=False, description="turn the image as its EXIF orientation says")
    scale: float = Field(1 / 255, gt=0)
    mean: tuple[float, ...] = Field((0.0,), min_length=1, description="one value, or one for each channel")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0,), min_length=1)

    @property
    def channels(self) -> int:
        """Of the model's input."""
        return 1 if self.colour == "grey" else 3

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if any(len(each) not in {1, self.channels} for each in (self.mean, self.std)):
            raise ValueError(f"mean and std have one value, or {self.channels} for colour {self.colour}")
        if self.shorter_side_px is not None and self.shorter_side_px < max(self.size_px):
            raise ValueError(f"shorter_side_px {self.shorter_side_px} leaves too little to cut {self.size_px} out of")
        return self


class ServerPreprocessing(_Spec):
    """The guarded server's own preprocessing model makes the input of an encoded image; Guard asks it."""

    input: str = Field(description="the served model's BYTES input")
    output: str | None = Field(None, description="its output, if it has another name than the replica's")
    upstream_model: str = Field(description="the preprocessing model's name on the guarded server")
    upstream_input: str | None = Field(None, description="its BYTES input, if it has another name")
    upstream_output: str = Field(description="its output, which the replica takes")


Preprocessing: TypeAlias = ImagePreprocessing | ServerPreprocessing


Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Joint(_Spec):
    """How much the detectors' surprises count together: a weight for each one, and one for its square root."""

    weights: dict[str, tuple[Weight, Weight]]


class QueryRadii(_Spec):
    """Bits in which the fingerprints of two inputs may differ that are near-duplicates: of one client, of all."""

    client: int = Field(ge=0)
    everyone: int = Field(ge=0)


TWO_SIDED = (ConfidenceSpec, SensitivitySpec, SqueezingSpec)
"""Detectors whose scores are evidence in both directions: confident attacks are steadier than benign inputs."""

DetectorSpec: TypeAlias = Annotated[
    ConfidenceSpec | SensitivitySpec | SqueezingSpec | OcclusionSpec | SmoothingSpec | NetworkSpec,
    Field(discriminator="kind"),
]
