"""A profile as a picture: what benign scores look like, and where the thresholds are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from guard.decide.combination import Combination
from guard.decide.threshold import p_value_threshold
from guard.output import writing
from guard.profile.profile import Profile
from guard.values import Float64Array, IntArray

PICTURE = "scores.png"
_RATES = (0.05, 0.01)
_COLUMNS = 2
_BINS = 40


def draw(profile: Profile, directory: Path) -> Path:
    """Write histograms of each detector's benign scores, and of their combination, to `directory`/scores.png."""
    panels = [(name, profile.reference.scores[name]) for name in profile.scoring]
    combined = Combination(profile).of_all(profile.calibration)
    rows = -(-(len(panels) + 1) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis, (name, scores) in zip(axes, panels, strict=False):
        known = scores[np.isfinite(scores)]
        axis.hist(known, bins=_BINS, color="tab:blue")
        tails = "both tails count" if name in profile.two_sided else "the right tail counts"
        axis.set_title(f"{name}: {len(known)} benign inputs, {tails}", fontsize="small")
        axis.set_xlabel("score", fontsize="small")
    _draw_combined(axes[len(panels)], combined, profile.calibration.groups)
    for axis in axes[len(panels) + 1 :]:
        axis.set_visible(False)
    figure.suptitle(f"{profile.model.name}, calibrated {profile.provenance.created}", fontsize="medium")
    path = directory / PICTURE
    with writing(path):
        figure.savefig(path, dpi=110)
    return path


def _draw_combined(axis: Any, combined: Float64Array, groups: IntArray | None) -> None:
    axis.hist(combined, bins=_BINS, color="tab:green")
    ordered = np.sort(combined)
    for rate, style in zip(_RATES, ("--", ":"), strict=True):
        flagged = round(p_value_threshold(combined, groups, rate) * (len(combined) + 1))
        if flagged > 0:
            axis.axvline(ordered[-flagged], color="tab:red", linestyle=style, label=f"flagged beyond, at {rate:.0%}")
    axis.set_title(f"combined: {len(combined)} other benign inputs", fontsize="small")
    axis.set_xlabel("score in nats", fontsize="small")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small")
