"""What papers report for the same data sets, and what of it can be compared with the tables here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from benchmarks.detection.subjects import Name


class Published(NamedTuple):
    """A figure of a paper, and how far it is comparable."""

    source: str
    figures: str
    comparable: str
    same: tuple[str, ...] = ()
    """Attacks of that name here, over all their strengths."""


_MUTATION: Final = "Wang et al., ICSE 2019 (mutation testing)"
_SQUEEZING: Final = "Xu et al., NDSS 2018 (feature squeezing)"
_AUROC: Final = (
    "no: ranks of attacked against benign inputs by one detector, other models, no threshold fixed beforehand, no "
    "laundering, no drift"
)
_SHARE: Final = (
    "in part: caught successes at a rate that was set on legitimate inputs, one mean over attacks; other models and "
    "strengths, inputs not rounded to 8 bits, no laundering, no drift"
)
_DETECTED: Final = "in part: of query attacks on other models; see queries.md for its algorithm beside Guard's"

_MUTATED: Final = ("FGSM", "JSMA", "C&W", "DeepFool")
_SQUEEZED: Final = ("FGSM", "BIM", "C&W", "JSMA")

FIGURES: Final[dict[Name, tuple[Published, ...]]] = {
    Name.DIGITS: (),
    Name.MNIST: (
        Published(_MUTATION, "AUROC: FGSM .965, JSMA .994, C&W .958, DeepFool .986, black box .969", _AUROC, _MUTATED),
        Published(_SQUEEZING, "98.2 % caught at 3.98 % false positives", _SHARE, _SQUEEZED),
        Published(
            "Gong et al., 2017 (detector network)",
            "FGSM: 1.0 at .3 and .1, .9997 at .03, .003 at .01",
            _SHARE,
            ("FGSM",),
        ),
        Published(
            "Li et al., USENIX Security 2022 (Blacklight)",
            "all of eight query attacks, often after a handful of queries",
            _DETECTED,
        ),
    ),
    Name.CIFAR10: (
        Published(_MUTATION, "AUROC: FGSM .900, JSMA .974, C&W .926, DeepFool .969, black box .871", _AUROC, _MUTATED),
        Published(_SQUEEZING, "84.5 % caught at 4.93 % false positives; FGSM 20.8 %, BIM 55.0 %", _SHARE, _SQUEEZED),
        Published(
            "Lee et al., NeurIPS 2018 (Mahalanobis)",
            "AUROC: FGSM 99.9, BIM 99.8, DeepFool 83.4, C&W 87.3",
            _AUROC,
            ("FGSM", "BIM", "DeepFool", "C&W"),
        ),
        Published(
            "Cohen et al., ICML 2019 (smoothing, sigma .25)",
            "certified accuracy .600 at L2 .25, .428 at .5",
            "no: a ResNet-110 trained under that noise, 100,000 copies; certified.md has Guard's certificates",
        ),
        Published(
            "Li et al., USENIX Security 2022 (Blacklight)",
            "all of eight query attacks, often after a handful of queries",
            _DETECTED,
        ),
    ),
}


def markdown(name: Name, found: dict[str, Any]) -> Iterable[str]:
    """The table, nothing where there is none, with what Guard catches of attacks of the same name at its first rate."""
    if FIGURES[name]:
        yield "## Published figures"
        yield ""
        rate = f"{found['rates'][0]:g}"
        yield f"| source | figures | Guard, at {float(rate):.0%}, all strengths | comparable |"
        yield "| --- | --- | --- | --- |"
        for row in FIGURES[name]:
            yield f"| {row.source} | {row.figures} | {_ours(row.same, found, rate)} | {row.comparable} |"
        yield ""


def _ours(names: Sequence[str], found: dict[str, Any], rate: str) -> str:
    cells = []
    for name in names:
        counts = [row["caught"][rate] for row in found["attacks"] if row["attack"] == name]
        if of := sum(count["of"] for count in counts):
            cells.append(f"{name} {sum(count['count'] for count in counts)} of {of}")
    return ", ".join(cells) or "-"
