"""The attacks, one declarative table; crafted by the Adversarial Robustness Toolbox (ART), but for C&W.

Strengths begin below the weakest one that detector networks are trained on. ART has no L-BFGS attack, so there is none
here.
"""

from __future__ import annotations

from collections.abc import Sequence

from guard.errors import ConfigError
from guard.offline.evaluate import rows
from guard.offline.evaluate.attack import Attack
from guard.offline.evaluate.pursuits import NAME

# Settings of the demo's rows are what it takes to succeed on digits.
SUITE: tuple[Attack, ...] = (
    *(rows.fgsm(eps) for eps in rows.TINY),
    rows.fgsm(0.1),
    rows.fgsm(0.2),
    rows.fgsm(0.3),
    *(rows.bim(eps) for eps in (1 / 255, 2 / 255, 8 / 255, 0.1, 0.3)),
    *(rows.pgd(eps, eps / 5) for eps in rows.TINY),
    rows.pgd(0.1, 0.02),
    rows.pgd(0.2, 0.03),
    rows.pgd(0.3, 0.03, 40),
    *(rows.pgd_l2(eps) for eps in (0.1, 0.25, 0.5, 1.0, 2.0)),
    rows.carlini(0.0, "L2"),
    *(rows.carlini(confidence, f"L2, confidence {confidence:g}") for confidence in (2.0, 5.0, 10.0, 20.0)),
    rows.deepfool("L2", 1e-6),
    rows.deepfool("L2, overshoot 0.2", 0.2),
    *(rows.jsma(gamma) for gamma in (0.005, 0.03, 0.12)),
    *(rows.elastic_net(beta) for beta in (0.001, 0.01, 0.1)),
    *(rows.auto_attack(eps) for eps in (4 / 255, 8 / 255, 0.1, 0.3)),
    *(rows.square(eps) for eps in (2 / 255, 4 / 255, 8 / 255, 0.1, 0.3)),
    rows.zoo(),
    rows.boundary(200),
    rows.boundary(1000),
    rows.hop_skip_jump(2, "L2", 5),
    rows.hop_skip_jump(2, "L2", 20),
    rows.hop_skip_jump("inf", "L-inf", 20),
    *(rows.simba(epsilon) for epsilon in (0.1, 0.3)),
    rows.spatial(5, 7.5),
    rows.spatial(10, 15),
    rows.spatial(10, 30),
    *(rows.universal(eps) for eps in (8 / 255, 0.1, 0.3)),
    *(rows.patch(area) for area in (0.025, 0.05, 0.1, 0.2)),
    rows.transfer(8 / 255, 8 / 255 / 5),
    rows.transfer(0.1, 0.02),
    rows.transfer(0.3, 0.03),
)

QUICK = frozenset(
    {
        "FGSM, L-inf 8/255",
        "FGSM, L-inf 0.3",
        "PGD, L-inf 8/255",
        "PGD, L-inf 0.3",
        "PGD L2, L2 1",
        "C&W, L2",
        "DeepFool, L2",
        "JSMA, gamma 0.12",
        "Elastic net, beta 0.01",
        "AutoAttack, L-inf 0.1",
        "Square, L-inf 0.3",
        "SimBA, pixels, step 0.3",
        "Spatial, 10 % and 30 degrees",
        "Universal, L-inf 0.3",
        "Patch, 20 % of the area",
        "Transfer, PGD L-inf 0.1",
    }
)
"""Titles of the rows of a quick run."""


def find(title: str) -> Attack:
    """The row with a title."""
    return next(attack for attack in SUITE if attack.title == title)


def choose(names: Sequence[str], *, quick: bool, image: bool) -> tuple[Attack, ...]:
    """Rows by the attacks' names or their own titles; where none is named, all of them, or those of a quick run.

    Those that fit the input.

    Attackers who know Guard have a table of their own (see `knowing_named`), and may be all that is named.

    Raises:
        ConfigError: no attack has that name, or none is left.
    """
    known = {attack.name.lower(): attack.name for attack in SUITE} | {NAME.lower(): NAME}
    titles = {attack.title.lower(): attack.title for attack in SUITE}
    unknown = [name for name in names if name.lower() not in known | titles]
    if unknown:
        raise ConfigError(f"--attacks {unknown[0]}: no attack is called that; choose of {', '.join(known.values())}")
    wanted = {(known | titles)[name.lower()] for name in names}
    chosen = [
        attack
        for attack in SUITE
        if {attack.name, attack.title} & wanted or (not wanted and (attack.title in QUICK or not quick))
    ]
    fitting = tuple(attack for attack in chosen if image or not attack.images_only)
    if not fitting and NAME not in wanted:
        raise ConfigError(f"--attacks {', '.join(names)}: these need images, and the model takes none; name others")
    return fitting


def knowing_named(names: Sequence[str]) -> bool:
    """Whether attackers who know Guard are wanted: they are where they are named, or nobody is."""
    return not names or any(name.lower() == NAME.lower() for name in names)
