"""The self-test of a running Guard, and what it leaves untouched."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from guard.app import Sidecar, selftest
from guard.app.models import load_models
from guard.app.parts import self_test
from guard.app.selftest import SelfTest
from guard.profile import store
from tests.app.parts import policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import digits_profile
from tests.support.sidecars import embedded, running, settings, wait_until
from tests.support.waiting import until

SUCCEEDED = "guard_selftest_last_success_timestamp_seconds"
INTERVAL = "guard_selftest_interval_seconds"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def sidecar(loop: LoopThread, profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A ready Guard: with its profile's attacks, with benign inputs in their place, with none, and with no test."""
    blunt, without = (tmp_path_factory.mktemp(name) for name in ("blunt", "without"))
    store.save(replace(digits_profile(), known_attacks=digits.load_data().calibration[0][:4]), blunt)
    store.save(replace(digits_profile(), known_attacks=None), without)
    models = {
        "sharp": policy(profile, self_test_interval_s=0.05),
        "blunt": policy(blunt, self_test_interval_s=0.05),
        "without": policy(without),
        "off": policy(profile, self_test_interval_s=0),
    }
    with (
        embedded(loop, dict.fromkeys(models, digits.onnx_file())) as upstream,
        running(loop, Sidecar(settings(upstream, models))) as started,
    ):
        wait_until(started)
        yield started


def value(sidecar: Sidecar, name: str, **labels: str) -> float | None:
    """A series."""
    return sidecar.metrics.registry.get_sample_value(name, labels)


async def test_it_succeeds_again_and_again(sidecar: Sidecar) -> None:
    """Known attacks are found, and each time moves the time of the last success on."""
    await until(lambda: (value(sidecar, SUCCEEDED, model="sharp") or 0) > 0, within_s=WAIT_S)
    first = value(sidecar, SUCCEEDED, model="sharp")
    assert first == pytest.approx(time.time(), abs=120)
    await until(lambda: value(sidecar, SUCCEEDED, model="sharp") != first, within_s=WAIT_S)


async def test_it_fails_where_nothing_is_found(sidecar: Sidecar) -> None:
    """Inputs that detectors find ordinary, as all would be for a Guard that broke silently, are a failure: 0 stays."""
    with capture_logs() as logs:
        await until(lambda: any("the self-test failed" in line["event"] for line in logs), within_s=WAIT_S)
    (line, *_) = [line for line in logs if "the self-test failed" in line["event"]]
    assert (line["log_level"], line["model"], line["inputs"]) == ("error", "blunt", 4)
    assert value(sidecar, SUCCEEDED, model="blunt") == 0


async def test_it_counts_as_no_traffic(sidecar: Sidecar) -> None:
    """Only its own series and the engine's time move: no request, item, evaluation or query, and no client."""
    await until(lambda: (value(sidecar, SUCCEEDED, model="sharp") or 0) > 0, within_s=WAIT_S)
    registry = sidecar.metrics.registry
    counted = {
        sample.name: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.labels.get("model") == "sharp" and "upstream" not in sample.name and "engine" not in sample.name
        if sample.name.endswith("_total") or sample.name.endswith("_count")
    }
    assert len(counted) > 5
    assert set(counted.values()) == {0.0}
    assert value(sidecar, "guard_remembered_queries", model="sharp") == 0
    assert value(sidecar, "guard_client_detections_top_share_ratio", model="sharp") == 0


@pytest.mark.parametrize("model", ["without", "off"])
def test_no_series_without_a_test(sidecar: Sidecar, model: str) -> None:
    """A profile without attacks, and a policy that wants no test, have no series that an alert could wait for."""
    assert value(sidecar, SUCCEEDED, model=model) is None
    assert value(sidecar, INTERVAL, model=model) is None


def test_how_often_is_exported(sidecar: Sidecar) -> None:
    """The alert waits as long as the policy lets pass between two tests."""
    assert value(sidecar, INTERVAL, model="sharp") == 0.05


async def test_one_that_failed_is_made_again_soon(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the policy wants it once a day, a Guard that was slow to start doesn't look broken for a day."""
    monkeypatch.setattr(selftest, "RETRY_S", 0.05)
    guarded, inputs = sidecar.in_force.models["off"].model, digits_profile().known_attacks
    assert inputs is not None
    tester = SelfTest("slow", inputs, engine=guarded.engine, judge=guarded.judge, budget_s=60.0, interval_s=86_400.0)
    looks = iter([Counter(overloaded=len(inputs))])
    monkeypatch.setattr(tester, "look", lambda: next(looks, None) or SelfTest.look(tester))
    tester.start()
    await until(lambda: tester.succeeded_s > 0, within_s=WAIT_S)
    tester.close()


def test_no_test_is_said(tmp_path: Path) -> None:
    """A model whose policy wants a test that its profile has nothing for is named in the log, and no other is."""
    store.save(replace(digits_profile(), known_attacks=None), tmp_path)
    models = {"without": policy(tmp_path), "off": policy(tmp_path, self_test_interval_s=0)}
    loaded = load_models(settings("127.0.0.1:1", models), {})
    with capture_logs() as logs:
        parts = [self_test(model, {}, ()) for model in loaded.values()]
    for model in loaded.values():
        model.close()
    assert [part.it for part in parts] == [None, None]
    assert [(line["log_level"], line["model"]) for line in logs] == [("warning", "without")]


def test_an_engine_that_stopped(sidecar: Sidecar) -> None:
    """Inputs that are refused are told apart from those that were found clean."""
    guarded = sidecar.in_force.models["off"].model
    inputs = digits_profile().known_attacks
    assert inputs is not None
    tester = SelfTest("off", inputs, engine=guarded.engine, judge=guarded.judge, budget_s=60.0, interval_s=1.0)
    assert tester.look() == {"adversarial": len(inputs)}
    tester = SelfTest("off", inputs, engine=guarded.engine, judge=guarded.judge, budget_s=1e-9, interval_s=1.0)
    assert tester.look()["adversarial"] == 0


def test_evaluations_on_the_guarded_server_are_counted(sidecar: Sidecar) -> None:
    """What Guard asks the server for itself, here to recognise the model, shows beside what clients ask."""
    assert value(sidecar, "guard_upstream_inferences_total", model="sharp", sender="guard", outcome="answered") >= 1
    assert value(sidecar, "guard_upstream_inferences_total", model="sharp", sender="call", outcome="answered") == 0
