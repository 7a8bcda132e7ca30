"""What Guard's detectors say of single queries, beside what its memory says of many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from guard.decide.judge import Judge
from guard.model.onnx import OnnxBackend
from guard.offline.evaluate.request import model_of
from guard.offline.spread import screening
from guard.profile import store
from guard.values import Float32Array, Verdict

RATES: Final = (0.05, 0.01)
"""The false-positive rates asked."""

Verdicts: TypeAlias = Callable[[Sequence[Float32Array]], Mapping[float, Sequence[bool]]]
"""Of queries (*dims): by rate, which of them are flagged."""


@contextmanager
def verdicts_of(profile: Path, model: Path) -> Iterator[Verdicts]:
    """An engine with the detectors of a profile, over its model's file; stopped at the end.

    Raises:
        ProfileError: there is no profile, or it is damaged.
        ProfileMismatch: the file is another model's.
        RateUnsupported: the profile holds too few samples.
    """
    known = store.load(profile)
    judges = {rate: Judge(known, false_positive_rate=rate) for rate in RATES}
    with (
        closing(OnnxBackend(model_of(known, model), known.model)) as replica,
        screening(replica, known.detectors, known.files, secret=b"benchmark") as screens,
    ):

        def flagged(queries: Sequence[Float32Array]) -> Mapping[float, Sequence[bool]]:
            found = list(screens(np.stack(queries))) if queries else []
            return {
                rate: [judge.judge(each).verdict is Verdict.ADVERSARIAL for each in found]
                for rate, judge in judges.items()
            }

        yield flagged
