"""Occlusion: how the answer moves when a window of the image is covered, and which label survives that.

A sticker that makes the label loses it when one mask covers it, and keeps it under masks elsewhere. In a benign image
most masks take something of what the label rests on, and hardly one takes all. The masks are those of PatchCleanser
(Xiang, Mahloujifar and Mittal, USENIX Security 2022): wherever a square sticker of `patch_px` is, one of them covers
it whole. So is the rule for the label, double masking:

1. If all copies under one mask agree, that is the label.
2. Else a mask whose label is not that of most is right if no second mask, wherever it is, changes its label.
3. Else it is the label of most.

Where all copies under two masks agree, no change within one such square has made that label or could take it away. For
that a copy must not depend on what its masks cover, so their colour is fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np

from guard.profile.spec import Mask, OcclusionSpec
from guard.screen.trial import ITSELF, Answers, Probes, Source, source
from guard.values import Abstention, Evidence, Finding, Float32Array, IntArray, Occlusion

Window: TypeAlias = tuple[int, int, int, int]
"""Top, left, height and width, in pixels."""

_FIRST_PAIRS: Final = 4


class Masks(NamedTuple):
    """What trials ask for: copies under each mask, and for each mask those under it and one more."""

    columns: int
    windows: tuple[Window, ...]
    single: Probes
    pairs: tuple[Source, ...]


def masks_of(spec: OcclusionSpec) -> Masks:
    """The masks of a spec, row by row. Pairs begin with those whose masks are far apart, in the order of the rows."""
    (height, tops), (width, lefts) = (_along(pixels, spec.patch_px, spec.grid) for pixels in spec.image_px)
    places = tuple(product(tops, lefts))
    n = len(places)

    def copies(*covers: tuple[tuple[int, int], ...]) -> Source:
        return source(Mask(image_px=spec.image_px, window_px=(height, width), covers=covers, fill=spec.fill))

    return Masks(
        columns=len(lefts),
        windows=tuple((top, left, height, width) for top, left in places),
        single=Probes(copies(*((place,) for place in places)), 0, n),
        pairs=tuple(copies(*((place, places[other]) for other in partners(i, n))) for i, place in enumerate(places)),
    )


def partners(mask: int, masks: int) -> list[int]:
    """The other masks, in the order in which they are tried beside this one.

    Over all masks, the first half of them holds each pair at least once.
    """
    half = masks // 2
    return [(mask + step) % masks for step in (*range(half, 0, -1), *range(masks - 1, half, -1))]


def _along(pixels: int, patch: int, grid: int) -> tuple[int, list[int]]:
    """Length of masks along one side, and where they begin: at most `grid`, and each patch lies within one of them."""
    places = pixels - patch + 1
    stride = -(-places // grid)
    length = patch + stride - 1
    return length, [min(start, pixels - length) for start in range(0, places, stride)]


class DoubleMasking:
    """The rule, on labels: which pairs it still needs, and what they have decided.

    Pairs are asked for in growing portions, since most that differ do so soon. To certify, they are asked for where all
    single masks agree, too; where they are to be skipped, a label on which the masks differ stays unknown.
    """

    __slots__ = ("_certify", "_labels", "_majority", "_needed", "_pending", "_skip", "_tried", "dissent", "open")

    def __init__(self, labels: IntArray, pairs: Literal["skip", "recover", "certify"]) -> None:
        self._labels = labels
        self._majority = int(np.bincount(labels).argmax())  # of several the smallest, as in the authors' code
        self.dissent: list[int] = np.flatnonzero(labels != self._majority).tolist()
        """Masks whose label is not that of most."""
        self._skip = pairs == "skip"
        self._certify = pairs == "certify" and not self.dissent
        self.open = list(range(len(labels))) if self._certify else self.dissent
        """Masks whose label no second mask has changed so far: those that are asked about."""
        self._needed = len(labels) // 2 if self._certify else len(labels) - 1
        self._tried = 0
        self._pending: frozenset[int] = frozenset()

    def next(self) -> tuple[int, int]:
        """From which to which partner of the open masks labels are needed next."""
        start, self._tried = self._tried, min(3 * self._tried or _FIRST_PAIRS, self._needed)
        self._pending = frozenset(self.open)
        return start, self._tried

    def tell(self, mask: int, labels: IntArray) -> None:
        """The labels of an open mask with the partners that were needed next."""
        self._pending -= {mask}
        if (labels != self._labels[mask]).any():
            self.open = [] if self._certify else [other for other in self.open if other != mask]

    @property
    def done(self) -> bool:
        """Whether no pair can change anything more."""
        return self._skip or not self.open or (self._tried == self._needed and not self._pending)

    @property
    def label(self) -> int | None:
        """The label by double masking, once it is known."""
        if self._certify or not self.open:
            return self._majority
        return int(self._labels[self.open[0]]) if self.done and not self._skip else None

    @property
    def certified(self) -> bool:
        """Whether all copies under two masks agree."""
        return self._certify and self.done and bool(self.open)


class OcclusionTrial:
    """Asks for the input and all single masks at once, and for pairs where the rule needs them."""

    __slots__ = ("_changes", "_evaluations", "_margins", "_masks", "_own_margin", "_rule", "_spec")

    def __init__(self, spec: OcclusionSpec, masks: Masks) -> None:
        self._spec = spec
        self._masks = masks
        self._own_margin = 0.0
        self._changes = 0
        self._margins: Float32Array | None = None
        self._rule: DoubleMasking | None = None
        self._evaluations = 0

    def ask(self) -> Sequence[Probes]:
        """Both rounds."""
        if self._rule is None:
            return ITSELF, self._masks.single
        if self._rule.done:
            return ()
        start, end = self._rule.next()
        return [Probes(self._masks.pairs[mask], start, end - start) for mask in self._rule.open]

    def tell(self, probes: Probes, answers: Answers) -> None:
        """Take the answers about the input, the single masks, or one mask with some others."""
        if probes.source is ITSELF.source:
            self._own_margin = float(answers.margins[0])
            return
        self._evaluations += probes.copies
        labels = answers.logits.argmax(axis=1)
        if self._rule is None:
            self._margins, self._rule = answers.margins, DoubleMasking(labels, self._spec.pairs)
            self._changes = answers.changes
        else:
            self._rule.tell(self._masks.pairs.index(probes.source), labels)

    def finding(self, duration_s: float = 0.0) -> Finding:
        """How far the label's margin falls under the worst mask beyond a typical one, less what the input has of it."""
        spec, masks, rule, margins = self._spec, self._masks, self._rule, self._margins
        if rule is None or margins is None:
            return Abstention(spec.name, 0, "not every masked copy was classified", duration_s)
        heat = float(np.median(margins)) - margins.astype(np.float64)
        drop = float(heat.max())
        return Evidence(
            detector=spec.name,
            score=drop - self._own_margin,
            evaluations=self._evaluations,
            details={"drop": drop, "label_change_rate": self._changes / len(margins)},
            duration_s=duration_s,
            occlusion=Occlusion(
                heat=tuple(tuple(row) for row in heat.reshape(-1, masks.columns).tolist()),
                hottest=masks.windows[int(heat.argmax())],
                tops=tuple(dict.fromkeys(top for top, *_ in masks.windows)),
                lefts=tuple(dict.fromkeys(left for _, left, *_ in masks.windows)),
                recovered=rule.label,
                certified_px=spec.patch_px if rule.certified else None,
            ),
        )
