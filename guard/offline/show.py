"""A profile in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table

from guard import stats
from guard.decide.combination import Combination
from guard.decide.threshold import TIMES, held_for, p_value_threshold
from guard.layout import of_model
from guard.offline.telling import TOLD
from guard.profile.profile import Profile
from guard.profile.spec import DetectorSpec, ServerPreprocessing
from guard.values import Float64Array


def describe(profile: Profile) -> Group:
    """What a person wants to know of a profile: the model, the samples, the detectors, the rates it supports."""
    model, made = profile.model, profile.provenance
    low, high = model.bounds
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    for name, value in (
        ("model", f"{model.name} (fingerprint {model.fingerprint[:16]}...)"),
        (
            "input",
            f"{model.input_name}: {model.datatype} {list(model.shape)} ({of_model(model)}) in [{low:g}, {high:g}]",
        ),
        ("images", _images(profile)),
        ("output", f"{model.output_name}: {model.classes} classes, {model.output_kind}"),
        ("replica", _replica(profile)),
        (
            "expected",
            ", ".join(f"{each.kind} to {each.most:g}" for each in profile.conditions) or "inputs never change",
        ),
        *_telling(made.measured),
        ("made", f"{made.created} by guard {made.guard_version}, seed {made.seed}"),
        ("samples", ", ".join(f"{count} {part}" for part, count in made.samples.items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
    ):
        facts.add_row(name, value)
    detectors = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    detectors.add_column("detector", no_wrap=True)
    for heading in ("settings", "median", "5 % to 95 % of benign scores"):
        detectors.add_column(heading)
    if made.caught_alone:
        detectors.add_column("attacks it catches alone, at 5 %")
    for spec in profile.detectors:
        alone = f"{made.caught_alone[spec.name]:.0%}" if spec.name in made.caught_alone else "-"
        detectors.add_row(
            spec.name, _settings(spec), *_spread(profile, spec.name), *([alone] * bool(made.caught_alone))
        )
    return Group(facts, detectors, _rates(profile))


def _images(profile: Profile) -> str:
    match profile.preprocessing:
        case None:
            return "the served model takes the same tensors"
        case ServerPreprocessing() as made:
            return f"{made.input}: made tensors by the guarded server's model {made.upstream_model!r}"
        case made:
            return f"{made.input}: decoded by guard, {made.size_px[0]} x {made.size_px[1]} {made.colour}"


def _telling(measured: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    told = {name.removeprefix(TOLD): share for name, share in measured.items() if name.startswith(TOLD)}
    if told:
        shares = ", ".join(f"{share:.0%} under {kind}" for kind, share in told.items())
        yield "mutations", f"of calibration's attacks stand out {shares}"


def _replica(profile: Profile) -> str:
    if profile.replica is None:
        return "the model itself"
    return (
        f"{profile.replica.precision}, {profile.replica.speedup:.1f} times as fast; "
        f"it gives {profile.replica.agreement:.1%} of clean samples the model's label"
    )


def facts(profile: Profile) -> dict[str, Any]:
    """The same for machines."""
    detectors: list[dict[str, Any]] = []
    for spec in profile.detectors:
        scores = profile.reference.scores.get(spec.name)
        names = ("low", "median", "high")
        benign = None if scores is None else dict(zip(names, _quantiles(scores).tolist(), strict=True))
        detectors.append({"name": spec.name, "settings": spec.model_dump(mode="json"), "benign_scores": benign})
    return {
        "model": asdict(profile.model) | {"layout": str(of_model(profile.model))},
        "replica": None if profile.replica is None else profile.replica.model_dump(mode="json"),
        "conditions": [each.model_dump(mode="json") for each in profile.conditions],
        "made": asdict(profile.provenance),
        "detectors": detectors,
        "rates": list(_supported(profile)),
    }


def print_profile(console: Console, profile: Profile) -> None:
    """Print `describe`."""
    console.print(describe(profile), highlight=False)


def _rates(profile: Profile) -> Table:
    """The rates that the calibration samples support, where the true one lies, and that of each expected change."""
    rates = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("false-positive rate asked", "true rate, with 95 % confidence", "under each expected change"):
        rates.add_column(heading)
    for each in _supported(profile):
        if each["true_rate"] is not None:
            low, high = each["true_rate"]
            most = each["most_under_a_change"]
            alone = "may be more: too few samples of each" if most is None else f"at most {most:g}"
            rates.add_row(f"{each['rate']:g}", f"{low:.2g} to {high:.2g}", alone if profile.conditions else "-")
        else:
            too_few = f"needs {each['samples_needed']} calibration samples, {each['samples']} are there"
            rates.add_row(f"{each['rate']:g}", too_few, "-")
    return rates


def _supported(profile: Profile) -> Iterator[dict[str, Any]]:
    combined, groups = Combination(profile).of_all(profile.calibration), profile.calibration.groups
    n = len(combined)
    for rate in (0.1, 0.05, 0.02, 0.01, 0.005, 0.001):
        needed = stats.samples_needed(rate)
        true = stats.true_rate_interval(n, p_value_threshold(combined, groups, rate)) if needed <= n else None
        most = TIMES * rate if held_for(groups, rate) else None
        yield {"rate": rate, "samples_needed": needed, "samples": n, "true_rate": true, "most_under_a_change": most}


def _settings(spec: DetectorSpec) -> str:
    fields = spec.model_dump(mode="json", exclude={"kind", "sha256"})
    return ", ".join(f"{name} {_short(value)}" for name, value in fields.items()) or "-"


def _short(value: object) -> str:
    if isinstance(value, dict):
        inner = [f"{name} {_short(v)}" for name, v in value.items() if name != "kind"]
        return f"{value['kind']} ({', '.join(inner)})" if inner else str(value["kind"])
    if isinstance(value, list):
        return "; ".join(_short(v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _spread(profile: Profile, name: str) -> tuple[str, str]:
    scores = profile.reference.scores.get(name)
    if scores is None:
        return "-", "-"
    low, middle, high = _quantiles(scores)
    return f"{middle:.3g}", f"{low:.3g} to {high:.3g}"


def _quantiles(scores: Float64Array) -> Float64Array:
    return np.nanquantile(scores, [0.05, 0.5, 0.95])
