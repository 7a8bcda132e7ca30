"""Choosing masks by measuring the model on benign samples: their colour, and how many of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import numpy as np
import structlog

from guard.errors import DataError
from guard.layout import is_image, planes
from guard.model.backend import Backend
from guard.profile.spec import OcclusionSpec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.occlusion import masks_of
from guard.screen.trial import MODEL
from guard.values import Evidence, Fault, Float32Array, Layout

PATCH_AREA: Final = 0.05
"""Share of the image that stickers cover at most."""
MOST_EVALUATIONS: Final = 40.0
"""What benign inputs may cost on average: less than the cap of Wald's test."""

_GRIDS: Final = (3, 4, 5, 6)
_SAMPLES: Final = 48
_LEAST_SIDE_PX: Final = 16
_STEADY: Final = 0.05
_TOO_MANY_CHANGES: Final = 0.5

_log = structlog.get_logger(__name__)


class _Measured(NamedTuple):
    """Means over benign samples: label changes of single masks, and evaluations in all."""

    spec: OcclusionSpec
    changes: float
    evaluations: float


def choose_occlusion(
    backend: Backend,
    samples: Float32Array,
    *,
    patch_area: float = PATCH_AREA,
    pairs: Literal["skip", "recover", "certify"] = "recover",
    most_evaluations: float = MOST_EVALUATIONS,
) -> OcclusionSpec | None:
    """Masks for stickers of up to this share of the image: the finest grid that benign inputs can afford.

    Fine grids have small masks, which leave more benign labels alone; the coarsest that leaves nearly all is enough.
    The colour is the middle of the range or the mean of the samples, whichever moves fewer labels. None where inputs
    are no images or tiny ones, and, with a warning, where masks move most labels: they would tell little.

    Raises:
        DataError: a sample can't be screened.
    """
    layout = backend.info.layout
    if not is_image(backend.info.shape, layout):
        return None
    height, width = planes(samples[0], layout).shape[1:]
    patch_px = side_of(patch_area, height, width)
    if min(height, width) < max(_LEAST_SIDE_PX, 2 * patch_px):
        return None
    spec = OcclusionSpec(
        image_px=(height, width), patch_px=patch_px, fill=(sum(backend.info.bounds) / 2,), pairs="skip"
    )
    fills = spec.fill, mean_colour(samples, layout)
    colours = [_measured(backend, samples, _with(spec, fill=fill)) for fill in fills]
    steadier = min(colours, key=lambda colour: colour.changes).spec
    grids = [_with(steadier, grid=grid, pairs=pairs) for grid in _GRIDS]
    distinct = {masks_of(each).windows: each for each in reversed(grids)}  # a finer one may be the same on small images
    chosen = _finest((_measured(backend, samples, each) for each in reversed(distinct.values())), most_evaluations)
    if chosen.changes > _TOO_MANY_CHANGES:
        _log.warning(
            "covering a window of clean samples moves most labels, so occlusion would tell little and is left out: "
            "check that samples are scaled as the model was trained on",
            patch_px=patch_px,
            label_change_rate=chosen.changes,
        )
        return None
    return chosen.spec


def side_of(area: float, height: int, width: int) -> int:
    """The side of a square that covers such a share of an image."""
    return math.ceil(math.sqrt(area * height * width))


def _with(spec: OcclusionSpec, **changes: object) -> OcclusionSpec:
    return spec.model_copy(update=changes)


def mean_colour(samples: Float32Array, layout: Layout | None) -> tuple[float, ...]:
    """The mean of each channel."""
    means = np.mean([planes(sample, layout).mean(axis=(1, 2), dtype=np.float64) for sample in samples], axis=0)
    return tuple(means.tolist())


def _finest(grids: Iterator[_Measured], most_evaluations: float) -> _Measured:
    """Of grids that grow finer, the last that is affordable, or the first that is steady; the first in any case."""
    chosen = next(grids)
    while chosen.changes > _STEADY:
        finer = next(grids, None)
        if finer is None or finer.evaluations > most_evaluations:
            break
        chosen = finer
    return chosen


def _measured(backend: Backend, samples: Float32Array, spec: OcclusionSpec) -> _Measured:
    """Screen some samples as requests would be."""
    samples = samples[:_SAMPLES]
    engine = Engine(
        detectors=build_detectors((spec,)),
        backends={MODEL: backend},
        secret=b"masks draw nothing",
        max_queued_items=len(samples),
    )
    engine.start()
    try:
        screenings = [future.result() for future in [engine.submit(sample) for sample in samples]]
    finally:
        engine.stop()
    changes, evaluations = [], []
    for row, (finding,) in enumerate(screening.findings for screening in screenings):
        if not isinstance(finding, Evidence):
            reason = finding.reason if isinstance(finding, Fault) else "no answer"
            raise DataError(f"sample {row} can't be screened ({finding.detector}: {reason}): correct or remove it")
        changes.append(finding.details["label_change_rate"])
        evaluations.append(finding.evaluations)
    return _Measured(spec, float(np.mean(changes)), float(np.mean(evaluations)))
