"""Rows of the table of attacks, by what varies in them.

Strengths are shares of the input's range: every attack works on inputs in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guard.offline.evaluate.attack import Access, Attack, Portion

TINY = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255)
_BATCH = 200
_SLOW = 50
_LONG = 20
_QUIET = {"verbose": False}
_FILLED = 0.7  # of the square that ART draws a sticker in, by counting pixels that it changes
OWN_CARLINI = "carlini"
"""Not ART's: see `carlini`."""


def _level(eps: float) -> str:
    return f"L-inf {round(eps * 255)}/255" if eps in TINY else f"L-inf {eps:g}"


def fgsm(eps: float) -> Attack:
    """One step along the gradient's sign (Goodfellow et al., 2015)."""
    return Attack("FGSM", _level(eps), "FastGradientMethod", {"eps": eps}, linf=eps)


def bim(eps: float) -> Attack:
    """Steps of L-inf from the image itself, projected back to the ball (Kurakin et al., 2017)."""
    parameters = {"eps": eps, "eps_step": eps / 5, "max_iter": 20, **_QUIET}
    return Attack("BIM", _level(eps), "BasicIterativeMethod", parameters, linf=eps)


def pgd(eps: float, step: float, count: int = 20) -> Attack:
    """The same from a random place in the ball (Madry et al., 2018)."""
    parameters = {"eps": eps, "eps_step": step, "max_iter": count, "num_random_init": 1, **_QUIET}
    return Attack("PGD", _level(eps), "ProjectedGradientDescent", parameters, linf=eps)


def pgd_l2(eps: float) -> Attack:
    """The same in L2."""
    parameters = {"norm": 2, "eps": eps, "eps_step": eps / 5, "max_iter": 20, "num_random_init": 1, **_QUIET}
    return Attack("PGD L2", f"L2 {eps:g}", "ProjectedGradientDescent", parameters)


def carlini(confidence: float, setting: str) -> Attack:
    """The smallest change in L2 that wins by `confidence` logits (Carlini and Wagner, 2017)."""
    parameters = {"confidence": confidence, "searches": 4, "steps": 100, "rate": 0.05, "constant": 1.0}
    return Attack("C&W", setting, OWN_CARLINI, parameters, minimal=confidence == 0, most=2 * _SLOW)


def deepfool(setting: str, overshoot: float) -> Attack:
    """Least steps across the nearest boundary (Moosavi-Dezfooli et al., 2016)."""
    parameters = {"epsilon": overshoot, "batch_size": _BATCH, **_QUIET}
    return Attack("DeepFool", setting, "DeepFool", parameters, minimal=True)


def jsma(gamma: float) -> Attack:
    """The most salient values set to a bound, a share `gamma` of all (Papernot et al., 2016)."""
    parameters = {"theta": 1.0, "gamma": gamma, "batch_size": _BATCH, **_QUIET}
    return Attack("JSMA", f"gamma {gamma:g}", "SaliencyMapMethod", parameters, most=_SLOW)


def elastic_net(beta: float) -> Attack:
    """Carlini and Wagner's with a weight `beta` on L1 (Chen et al., 2018)."""
    parameters = {
        "beta": beta,
        "max_iter": 50,
        "binary_search_steps": 4,
        "initial_const": 0.1,
        "learning_rate": 0.05,
        "batch_size": _BATCH,
        **_QUIET,
    }
    return Attack("Elastic net", f"beta {beta:g}", "ElasticNet", parameters, minimal=True, most=2 * _SLOW)


def _apgd(eps: float, loss: str) -> Attack:
    parameters = {
        "loss_type": loss,
        "norm": "inf",
        "eps": eps,
        "eps_step": eps / 4,
        "max_iter": 50,
        "nb_random_init": 1,
        "batch_size": _BATCH,
        **_QUIET,
    }
    return Attack(
        "APGD",
        f"{_level(eps)}, {loss}",
        "AutoProjectedGradientDescent",
        parameters,
        linf=eps,
        least_classes=3 if loss == "difference_logits_ratio" else 2,
    )


def square(eps: float, *, most: int | None = 2 * _SLOW) -> Attack:
    """Random squares at the bound, kept where they help (Andriushchenko et al., 2020)."""
    parameters = {"norm": "inf", "eps": eps, "max_iter": 300, "nb_restarts": 1, "batch_size": _BATCH, **_QUIET}
    return Attack(
        "Square",
        _level(eps),
        "SquareAttack",
        parameters,
        access=Access.ANSWERS,
        linf=eps,
        most=most,
        images_only=True,
    )


def auto_attack(eps: float) -> Attack:
    """The chain of AutoAttack as ART has it, without its FAB and with smaller budgets (Croce and Hein, 2020).

    Not ART's own class: that needs a package which ART does not declare, and stops at the first failure.
    """
    parts = (_apgd(eps, "cross_entropy"), _apgd(eps, "difference_logits_ratio"), square(eps, most=None))
    return Attack(
        "AutoAttack",
        _level(eps),
        "chain",
        linf=eps,
        most=2 * _SLOW,
        images_only=True,
        parts=parts,
    )


def _queries(name: str, setting: str, method: str, parameters: Mapping[str, Any], *, most: int = _LONG) -> Attack:
    return Attack(
        name,
        setting,
        method,
        {**parameters, **_QUIET},
        access=Access.ANSWERS,
        portion=Portion.FEW,
        minimal=True,
        most=most,
    )


def zoo() -> Attack:
    """Gradients estimated value by value (Chen et al., 2017)."""
    parameters = {
        "max_iter": 200,
        "binary_search_steps": 2,
        "initial_const": 1.0,
        "learning_rate": 0.1,
        "use_resize": False,
        "use_importance": False,
        "nb_parallel": 32,
        "variable_h": 0.01,
    }
    return _queries("ZOO", "L2", "ZooAttack", parameters)


def boundary(count: int) -> Attack:
    """A walk along the boundary on labels alone (Brendel et al., 2018)."""
    parameters = {"targeted": False, "max_iter": count, "num_trial": 10, "init_size": 100}
    return _queries("Boundary", f"L2, {count} steps", "BoundaryAttack", parameters)


def hop_skip_jump(norm: int | str, setting: str, count: int) -> Attack:
    """The boundary's normal estimated on labels alone (Chen et al., 2020)."""
    parameters = {"norm": norm, "max_iter": count, "max_eval": 500, "init_eval": 50}
    return _queries("HopSkipJump", f"{setting}, {count} steps", "HopSkipJump", parameters)


def simba(epsilon: float) -> Attack:
    """One value at a time, kept where it helps (Guo et al., 2019)."""
    parameters = {"attack": "px", "epsilon": epsilon, "max_iter": 1000}
    return _queries("SimBA", f"pixels, step {epsilon:g}", "SimBA", parameters, most=_SLOW)


def spatial(translation: float, degrees: float) -> Attack:
    """The shift and rotation of a grid that helps most, image by image (Engstrom et al., 2019)."""
    parameters = {
        "max_translation": translation,
        "num_translations": 3,
        "max_rotation": degrees,
        "num_rotations": 7,
        **_QUIET,
    }
    return Attack(
        "Spatial",
        f"{translation:g} % and {degrees:g} degrees",
        "SpatialTransformation",
        parameters,
        access=Access.ANSWERS,
        portion=Portion.ONE,
        most=2 * _SLOW,
        images_only=True,
    )


def universal(eps: float) -> Attack:
    """One change for all images (Moosavi-Dezfooli et al., 2017), by steps of PGD."""
    inner = {"eps": eps, "eps_step": eps / 4, "max_iter": 10, **_QUIET}
    parameters = {"attacker": "pgd", "attacker_params": inner, "eps": eps, "norm": "inf", "max_iter": 3, **_QUIET}
    return Attack("Universal", _level(eps), "UniversalPerturbation", parameters, portion=Portion.ALL, linf=eps)


def patch(area: float) -> Attack:
    """One sticker for all images, anywhere on them (Brown et al., 2017); a circle of `area`, whose edge is soft."""
    scale = (area / _FILLED) ** 0.5
    parameters = {
        "target": 0,
        "rotation_max": 22.5,
        "scale_min": scale * 0.95,
        "scale_max": scale,
        "learning_rate": 5.0,
        "max_iter": 100,
        "batch_size": _BATCH,
        **_QUIET,
    }
    return Attack(
        "Patch",
        f"{area * 100:g} % of the area",
        "AdversarialPatchNumpy",
        parameters,
        portion=Portion.ALL,
        images_only=True,
    )


def transfer(eps: float, step: float) -> Attack:
    """PGD on another model, trained on this one's answers (Papernot et al., 2017)."""
    parameters = {"eps": eps, "eps_step": step, "max_iter": 20, "num_random_init": 1, **_QUIET}
    return Attack(
        "Transfer",
        f"PGD {_level(eps)}",
        "ProjectedGradientDescent",
        parameters,
        access=Access.TRANSFER,
        linf=eps,
    )
