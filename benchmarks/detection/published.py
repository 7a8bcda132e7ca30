"""What papers report for the same data sets, and what of it can be compared with the tables here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from benchmarks.detection.subjects import Name


class Published(NamedTuple):
    """A figure of a paper, and how far it is comparable."""

    source: str
    figures: str
    comparable: str


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

FIGURES: Final[dict[Name, tuple[Published, ...]]] = {
    Name.DIGITS: (),
    Name.MNIST: (
        Published(_MUTATION, "AUROC: FGSM .965, JSMA .994, C&W .958, DeepFool .986, black box .969", _AUROC),
        Published(_SQUEEZING, "98.2 % caught at 3.98 % false positives", _SHARE),
        Published("Gong et al., 2017 (detector network)", "FGSM: 1.0 at .3 and .1, .9997 at .03, .003 at .01", _SHARE),
        Published(
            "Li et al., USENIX Security 2022 (Blacklight)",
            "all of eight query attacks, often after a handful of queries",
            _DETECTED,
        ),
    ),
    Name.CIFAR10: (
        Published(_MUTATION, "AUROC: FGSM .900, JSMA .974, C&W .926, DeepFool .969, black box .871", _AUROC),
        Published(_SQUEEZING, "84.5 % caught at 4.93 % false positives; FGSM 20.8 %, BIM 55.0 %", _SHARE),
        Published(
            "Lee et al., NeurIPS 2018 (Mahalanobis)", "AUROC: FGSM 99.9, BIM 99.8, DeepFool 83.4, C&W 87.3", _AUROC
        ),
        Published(
            "Cohen et al., ICML 2019 (smoothing, sigma .25)",
            "certified accuracy .600 at L2 .25, .428 at .5",
            "no: a ResNet-110 trained under that noise, 100,000 copies; engine.md has Guard's certificates",
        ),
        Published(
            "Li et al., USENIX Security 2022 (Blacklight)",
            "all of eight query attacks, often after a handful of queries",
            _DETECTED,
        ),
    ),
}


def markdown(name: Name) -> Iterable[str]:
    """The table, nothing where there is none."""
    if FIGURES[name]:
        yield "## Published figures"
        yield ""
        yield "| source | figures | comparable |"
        yield "| --- | --- | --- |"
        yield from (f"| {row.source} | {row.figures} | {row.comparable} |" for row in FIGURES[name])
        yield ""
