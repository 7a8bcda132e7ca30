"""Alerts where Guards come and go: deployments beside each other, pods that are replaced, restarts, slow starts."""

from __future__ import annotations

from tests.deploy.alert_case import Case
from tests.deploy.alert_series import (
    GONE,
    Series,
    alive,
    apart,
    at,
    failures,
    inferences,
    labelled,
    mode,
    self_tested,
)

_DIGITS, _JOB = {"job": "guard", "model": "digits"}, {"job": "guard"}
_FAST, _SLOW = _JOB | {"burn": "fast", "severity": "critical"}, _JOB | {"burn": "slow", "severity": "warning"}
_LEFT = mode(GONE, "0x20 stale")
_TAKEN_AWAY = mode(GONE, "0x20 stale", GONE)
_WITHOUT = {"guard_build_info{version='1'}": "_x18 1x42"}
"""A Guard that knows no such model, since shortly before others ended."""


def _pod(deployment: str, pod: str, address: str, series: Series) -> Series:
    return labelled("deployment", deployment, labelled("pod", f"{deployment}-{pod}", at(address, series)))


def _wanted(namespace: str, deployment: str, replicas: str) -> Series:
    """What kube-state-metrics says of a deployment."""
    labels = f"job='kube-state-metrics',namespace='{namespace}',deployment='{deployment}'"
    return {f"kube_deployment_spec_replicas{{{labels}}}": replicas}


def _alive(deployment: str, address: str, up: str, guard: str) -> Series:
    return alive(up, guard, f"namespace='a',deployment='{deployment}',instance='{address}'")


def _ended() -> Series:
    """Of five pods four end, four minutes after each other; their Triton is read a minute longer than their Guard."""
    found = inferences("0+9x60", call="0+9x60")
    for end in (20, 24, 28, 32):
        both = inferences(f"0+6000x{end + 1} stale", call=f"0+6000x{end} stale")
        found = found | at(f"{end}:9011", both)
    return found


def _versions(guarded: Series) -> Series:
    """Triton runs two of them, 100 a minute each."""
    name = "nv_inference_request_success{model='digits',version="
    return guarded | {f"{name}'{version}'}}": "0+100x120" for version in "12"}


def _watched(pod: str, triton: str = "0+100x60", guard: str = "0+100x60", version: str = "1") -> Series:
    """A pod with Guard and Triton."""
    lives = GONE if guard == GONE else "1x60"
    found = inferences(triton, call=guard)
    served = {name.replace("version='1'", f"version='{version}'"): values for name, values in found.items()}
    return labelled("pod", pod, served | {"guard_build_info{version='1'}": lives})


_CARS = {name.replace("digits", "cars"): values for name, values in mode("1x60").items()}
_DIGITS_GONE, _CARS_LIVE = _alive("digits", "a:9011", GONE, GONE), _alive("cars", "b:9011", "1x60", "1x60")
_OTHERS_WANTED = _wanted("a", "boats", "0x60") | _wanted("b", "digits", "0x60")
_OF_DIGITS = _JOB | {"namespace": "a", "deployment": "digits"}
_TWICE = "0+6000x20 3000+6000x6 3000+6000x40"
"""Two restarts: of the 6000 that a minute has the counter doesn't show 3000."""

_NEW = {"guard_policy_mode{model='digits',mode='enforce'}": "_x18 1x42"}

ROLLOUTS = [
    Case(
        "GuardNotEnforcing",
        "the deployment that had the model was taken away, another goes on",
        _pod("digits", "old", "a:9011", _TAKEN_AWAY) | _pod("cars", "old", "b:9011", _CARS),
        45,
    ),
    Case(
        "GuardNotEnforcing",
        "its pods were replaced by such as have no such model, while another deployment has it",
        _pod("digits", "old", "a:9011", _TAKEN_AWAY)
        | _pod("digits", "new", "c:9011", _WITHOUT)
        | _pod("cars", "old", "b:9011", mode("1x60")),
        45,
        (_DIGITS | {"deployment": "digits"},),
    ),
    Case(
        "GuardNotEnforcing",
        "it left the policy of one pod of two",
        _pod("digits", "one", "a:9011", _LEFT) | _pod("digits", "two", "b:9011", mode("1x60")),
        45,
        (_DIGITS | {"deployment": "digits"},),
    ),
    Case(
        "GuardNotEnforcing",
        "a pod of another deployment got the address that one had",
        _pod("digits", "old", "a:9011", _TAKEN_AWAY)
        | _pod("digits", "two", "b:9011", mode("1x60"))
        | _pod("cars", "new", "a:9011", _WITHOUT),
        45,
    ),
    Case(
        "GuardDown",
        "a deployment of two in one namespace is gone",
        _DIGITS_GONE | _CARS_LIVE | _OTHERS_WANTED | _wanted("a", "digits", "2x60"),
        45,
        (_OF_DIGITS,),
    ),
    Case(
        "GuardDown",
        "no replicas of it are wanted",
        _DIGITS_GONE | _CARS_LIVE | _wanted("a", "digits", "2x20 0x40"),
        45,
    ),
    Case(
        "GuardDown",
        "one is down, and another deployment of its namespace is gone",
        _DIGITS_GONE | _alive("cars", "b:9011", "1x10 0x60", "1x10 stale"),
        45,
        (_OF_DIGITS, _OF_DIGITS | {"deployment": "cars", "instance": "b:9011"}),
    ),
    Case("GuardDown", "it was deleted", _DIGITS_GONE | _CARS_LIVE | _OTHERS_WANTED | _wanted("a", "digits", GONE), 45),
    Case(
        "GuardDown",
        "it is gone, and nobody says any more what is wanted",
        _DIGITS_GONE | _CARS_LIVE | _wanted("a", "digits", GONE),
        45,
        (_OF_DIGITS,),
    ),
    Case(
        "GuardDown",
        "it is gone, and who says what is wanted was replaced",
        _DIGITS_GONE | _CARS_LIVE | _wanted("a", "digits", GONE) | at("k:2", _wanted("a", "digits", "_x20 2x40")),
        45,
        (_OF_DIGITS,),
    ),
    Case("GuardBypassSuspected", "four pods end, whose Triton is read a minute longer", _ended(), 40),
    Case(
        "GuardBypassSuspected",
        "one version of two is guarded, where other namespaces guard the other and both",
        apart(
            a=_versions(inferences("0+100x120", "digits@1", call="0+100x120")),
            b=_versions(inferences("0+200x120", call="0+200x120")),
            c=_versions(inferences("0+100x120", "digits@2", call="0+100x120")),
        ),
        115,
    ),
    Case(
        "GuardBypassUnwatched",
        "the Triton of one pod of two, where another namespace has such pods too",
        apart(a=_watched("one", GONE) | _watched("two"), b=_watched("one") | _watched("two")),
        45,
        ({"model": "digits", "namespace": "a"},),
    ),
    Case(
        "GuardBypassUnwatched",
        "a pod is gone, such as another namespace has",
        apart(a=_watched("one", GONE, GONE) | _watched("two"), b=_watched("one")),
        45,
    ),
    Case(
        "GuardBypassUnwatched",
        "another version of the model is served",
        apart(a=_watched("one", GONE) | _watched("one", "_x19 0+100x40", version="2")),
        45,
    ),
    Case(
        "GuardSelfTestFailing",
        "none is made any more since a rollout, and never was of another deployment",
        apart(
            a=_pod("digits", "old", "a:9011", dict.fromkeys(self_tested("", ""), GONE))
            | _pod("digits", "new", "b:9011", _NEW)
            | _pod("cars", "new", "c:9011", _NEW),
            b=_pod("digits", "new", "b:9011", _NEW),
        ),
        50,
        (_OF_DIGITS | {"model": "digits", "instance": "b:9011", "pod": "digits-new"},),
    ),
    Case("GuardBypassSuspected", "Guard restarted twice", inferences("0+6000x67", "digits@1", call=_TWICE), 35),
    Case(
        "GuardBypassSuspected",
        "some in ten minutes, and Guard restarted twice",
        inferences("0+9000x67", "digits@1", call=_TWICE),
        35,
        ({"model": "digits"},),
    ),
    Case("GuardSelfTestFailing", "it just began, and not yet", self_tested("_x30 0x30", "60x100"), 40),
    Case(
        "GuardSelfTestFailing",
        "it began long ago, and not yet",
        self_tested("_x10 0x50", "60x100"),
        40,
        (_DIGITS | {"instance": "a:9011"},),
    ),
    Case(
        "GuardErrorBudgetBurn",
        "five requests of few",
        failures("0+1x100", unscreened_fault="0x74 1x4 2x4 3x4 4x4 5x5"),
        95,
    ),
    Case(
        "GuardErrorBudgetBurn",
        "an eighth of few requests",
        failures("0+2x100", unscreened_fault="0+0.25x100"),
        95,
        (_FAST, _SLOW),
    ),
]
