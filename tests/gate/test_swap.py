"""The gate while what it guards is swapped, and which versions it guards."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from guard.config import ModelPolicy, Unlisted
from guard.errors import ModelNotListed
from guard.listed import GuardedModel, Listed
from guard.values import Action, Course, InferRequest, Mode, UnscreenedReason, Verdict
from tests.gate.parts import ADVERSARIAL, CLEAN, Setup, Start, request


def of(guard: Setup) -> GuardedModel:
    """The model that a gate guards."""
    found = guard.gate._listed.get("digits", "")
    assert found is not None
    return found


def asked(version: str, model: str = "digits") -> InferRequest:
    """A request for a version."""
    return replace(request(ADVERSARIAL, model=model), model_version=version)


async def test_a_request_ends_with_the_policy_that_it_began_with(start: Start) -> None:
    """What is being screened at the swap is decided by the old policy, counted until then; what comes later, not."""
    guard = start()
    strict = of(guard)
    lenient = replace(strict, policy=strict.policy.model_copy(update={"mode": Mode.FLAG}))
    busy = await guard.occupy()
    running = asyncio.create_task(guard.screen(ADVERSARIAL))
    pinned = guard.gate.now()
    await asyncio.sleep(0)
    before = guard.gate.swap(Listed({"digits": lenient}, Unlisted.DENY))
    assert before.screening == 1
    later = asyncio.create_task(guard.screen(ADVERSARIAL))
    guard.model.open.set()
    assert (await running).action is Action.REJECT
    assert before.screening == 0
    assert (await later).action is Action.FLAG
    assert (pinned.course("digits"), guard.gate.course("digits")) == (Course.BEFORE, Course.BESIDE)
    assert (await pinned.screen(request(ADVERSARIAL), decision_id="d", deadline_s=None)).action is Action.REJECT
    await busy


async def test_a_request_that_began_outlives_its_model(start: Start) -> None:
    """A model that leaves the policy is refused from then on, but not to a request that began before."""
    guard = start()
    pinned = guard.gate.now()
    guard.gate.swap(Listed({}, Unlisted.DENY))
    assert (await pinned.screen(request(CLEAN), decision_id="d", deadline_s=None)).verdict is Verdict.CLEAN
    with pytest.raises(ModelNotListed):
        await guard.screen(CLEAN)


@pytest.fixture
def versions(start: Start) -> Setup:
    """A gate that guards the server's own version, which is 2, in enforce mode, and version 1 in shadow mode."""
    guard = start()
    own = of(guard)
    shadow = ModelPolicy.model_validate({"profile": "unused", "mode": Mode.SHADOW})
    info = replace(own.info, name="digits@1")
    models = {
        "digits": replace(own, unverified=only("2")),
        "digits@1": replace(own, info=info, policy=shadow, unverified=only("1")),
    }
    guard.gate.swap(Listed(models, Unlisted.DENY))
    return guard


def only(verified: str):  # noqa: ANN201 - a callable of the gate's
    """What a verifier says that found this version to be the profile's."""
    return lambda version: None if version in {"", verified} else f"ask for version {verified!r}, or for none"


async def test_each_version_by_its_own_policy(versions: Setup) -> None:
    """A version that the policy names is decided by its policy; the server's own, by number or not, by the model's."""
    gate = versions.gate
    assert [gate.course("digits", version) for version in ("", "2", "1")] == [
        Course.BEFORE,
        Course.BEFORE,
        Course.BEHIND,
    ]
    assert [gate.listed_as("digits", version) for version in ("", "2", "1")] == ["digits", "digits", "digits@1"]
    for version, model, action in (("", "digits", Action.REJECT), ("1", "digits@1", Action.FORWARD)):
        decision = await versions.ask(asked(version))
        assert (decision.model, decision.intended, decision.action) == (model, Action.REJECT, action)


async def test_the_version_that_the_server_is_asked_for(versions: Setup) -> None:
    """Who asks for none gets the one that was verified, where another would be refused, and under the same policy."""
    listed = versions.gate._listed
    own, other = listed.get("digits", ""), listed.get("digits", "1")
    assert own is not None
    assert other is not None
    flagging = replace(own, policy=ModelPolicy.model_validate({"profile": "unused", "mode": Mode.FLAG}))
    for guarded, recognised, version in (
        (own, "2", "2"),
        (own, "", ""),  # the server tells no version
        (own, "1", ""),  # which has another policy
        (flagging, "2", ""),  # where nothing is refused, nothing is to fail because the server has another by now
    ):
        known = replace(guarded, recognised=lambda recognised=recognised: recognised)
        versions.gate.swap(Listed({"digits": known, "digits@1": other}, Unlisted.PASS))
        asked = [versions.gate.version("digits", each) for each in ("", "2", "7")]
        assert asked == [version, "2", "7"]
    assert versions.gate.version("another", "") == ""


@pytest.mark.parametrize(("model", "version"), [("digits", "3"), ("digits", "01"), ("digits@1", ""), ("digits@1", "1")])
async def test_a_version_that_is_not_listed(versions: Setup, model: str, version: str) -> None:
    """Another version is refused before the server gets it, however it is written; a policy's name is no model's."""
    with pytest.raises(ModelNotListed):
        versions.gate.course(model, version)
    with pytest.raises(ModelNotListed):
        await versions.ask(asked(version, model))
    assert versions.model.evaluated == []


async def test_one_version_alone(versions: Setup) -> None:
    """Of a model that is listed by version no other passes, nor what the server would choose, whatever is unlisted."""
    guarded = versions.gate._listed.get("digits", "1")
    assert guarded is not None
    for unlisted in Unlisted:
        versions.gate.swap(Listed({"digits@1": guarded}, unlisted))
        assert versions.gate.course("digits", "1") is Course.BEHIND
        for version in ("", "2"):
            with pytest.raises(ModelNotListed, match="of model 'digits' only version 1 is under guard"):
                versions.gate.course("digits", version)


@pytest.mark.parametrize("version", ["01", "+1", " 1", "1a", "1.0"])
async def test_a_version_by_another_name(versions: Setup, version: str) -> None:
    """What Triton reads as the number of a version that has a policy is held to that one, and not screened as it."""
    listed = versions.gate._listed
    strict, shadow = listed.get("digits", ""), listed.get("digits", "1")
    assert strict is not None
    assert shadow is not None
    strict = replace(strict, unverified=only("1"))
    versions.gate.swap(Listed({"digits": shadow, "digits@1": strict}, Unlisted.PASS))
    assert versions.gate.course("digits", version) is Course.BEFORE
    decision = await versions.ask(asked(version))
    assert (decision.reason, decision.action) == (UnscreenedReason.UNVERIFIED, Action.REJECT)


async def test_another_version_where_unlisted_models_pass(versions: Setup) -> None:
    """Where unlisted models pass, another version of one that is listed does not: it is unscreened, by its policy."""
    guarded = versions.gate._listed.get("digits", "")
    assert guarded is not None
    versions.gate.swap(Listed({"digits": guarded}, Unlisted.PASS))
    decision = await versions.ask(asked("1"))
    assert (decision.reason, decision.action) == (UnscreenedReason.UNVERIFIED, Action.REJECT)
    assert versions.model.evaluated == []
