"""Two running Guards that share what they saw through a real store, as a stock client of both sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.queries import attacks as attacks_of
from benchmarks.queries.attacker import Hiding, Others, Session
from benchmarks.queries.attacker import attack as attack_by
from benchmarks.queries.attacks import Budget
from guard.app import Sidecar
from guard.client import Client as GuardClient
from guard.config import Queries, QueryStore
from guard.errors import ConfigError
from guard.profile import store as profiles
from guard.queries.calibrate import radii_of
from guard.values import Mode
from tests.app.parts import NOWHERE, policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import Client, client_of, embedded, running, settings, wait_until
from tests.support.stores import Store, needs_store
from tests.support.waiting import wait_for

MODEL, UNWATCHED, WATCHED = "digits", "unwatched", "watched"
SEARCHES = {"Square": Budget(0.1, 1.0, 60, 8), "HopSkipJump": Budget(0.1, 1.25, 60)}
"""As long as a memory keeps all look-alikes."""
SCORE = 20


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile that knows how far apart digits are."""
    folder = tmp_path_factory.mktemp("compared")
    radii = radii_of(digits.load_data().calibration[0], (0.0, 1.0))
    profiles.save(replace(plain_profile(), query_radii=radii), folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A running store."""
    made = Store(tmp_path)
    made.start()
    yield made
    made.kill()


class Guarded:
    """A running Guard, and clients of it: a stock one, and the SDK's."""

    def __init__(self, sidecar: Sidecar, client: Client, sdk: GuardClient) -> None:
        self.client, self.sdk, self._sidecar = client, sdk, sidecar

    def counted(self, name: str, model: str = MODEL) -> float | None:
        """A series of a model."""
        return self._sidecar.metrics.registry.get_sample_value(name, {"model": model})


@contextmanager
def two_guards(loop: LoopThread, profile: Path, folder: Path, **choices: Any) -> Iterator[list[Guarded]]:
    """Two ready Guards with one secret before one server, which reject who probes around an image.

    Of one model they only report it, and mark answers: whoever attacks that is not disturbed.
    """
    secret = folder / "secret"
    secret.write_bytes(bytes(range(32)))
    models = {MODEL: policy(profile, queries=Queries.REJECT), UNWATCHED: policy(profile, queries=Queries.SKIP)}
    models[WATCHED] = policy(profile, queries=Queries.REPORT, mode=Mode.FLAG)
    with ExitStack() as stack:
        upstream = stack.enter_context(embedded(loop, dict.fromkeys(models, digits.onnx_file())))
        made = []
        for _ in range(2):
            sidecar = Sidecar(settings(upstream, models, noise_secret_file=secret, **choices))
            wait_until(stack.enter_context(running(loop, sidecar)))
            sdk = stack.enter_context(GuardClient(f"grpc://127.0.0.1:{sidecar.grpc_port}", require_verdict=True))
            made.append(Guarded(sidecar, stack.enter_context(client_of(sidecar.grpc_port)), sdk))
        yield made


def until(guards: list[Guarded], name: str, value: float) -> None:
    """Wait until a series of both has a value."""
    wait_for(lambda: {each.counted(name) for each in guards} == {value})


def attacks(guard: Guarded) -> Iterator[list[np.ndarray]]:
    """What attackers who estimate a gradient send, each around another digit, none of it suspicious by itself."""
    for image in digits.load_data().test[0]:
        noise = np.random.default_rng(0).normal(0, 0.005, (6, 1, *image.shape))
        attack = [np.clip(image + each, 0, 1).astype(np.float32) for each in noise]
        if all(guard.client.ask(UNWATCHED, each).verdict == "clean" for each in attack):
            yield attack


def in_turn(guards: list[Guarded], attack: list[np.ndarray], known: int) -> list[str]:
    """Send to one Guard after the other, each time when both `known` what went before: the statuses."""
    statuses = []
    for number, image in enumerate(attack):
        until(guards, "guard_remembered_queries", known + number)
        statuses.append(guards[number % 2].client.ask(MODEL, image).status)
    return statuses


@needs_store
def test_an_attack_over_two_guards(loop: LoopThread, compared: Path, store: Store, tmp_path: Path) -> None:
    """Two that share reject it from the fourth query on, answer while the store is gone, and share when it is back."""
    with two_guards(loop, compared, tmp_path, query_store=QueryStore(url=store.url, timeout_s=30.0)) as guards:
        attack, another = islice(attacks(guards[0]), 2)
        until(guards, "guard_query_store_up", 1)
        assert in_turn(guards, attack, 0) == ["OK"] * 3 + ["PERMISSION_DENIED"] * 3
        until(guards, "guard_remembered_queries", 6)  # what the store has is lost with it
        store.kill()
        until(guards, "guard_query_store_up", 0)
        assert [each.client.ask(MODEL, another[0]).status for each in guards] == ["OK"] * 2
        store.start()
        until(guards, "guard_query_store_up", 1)
        assert in_turn(guards, another[1:], 7) == ["OK"] * 2 + ["PERMISSION_DENIED"] * 3


def test_an_attack_over_two_guards_that_do_not_share(loop: LoopThread, compared: Path, tmp_path: Path) -> None:
    """Each sees half of the same attack, and lets it pass."""
    with two_guards(loop, compared, tmp_path) as guards:
        attack = next(attacks(guards[0]))
        assert [guards[number % 2].client.ask(MODEL, each).status for number, each in enumerate(attack)] == ["OK"] * 6
        assert [each.counted("guard_query_store_up") for each in guards] == [None, None]


class ByTurns:
    """Asks one Guard after the other through the SDK, once what went before is known wherever it is shared."""

    def __init__(self, guards: list[Guarded], *, shared: bool) -> None:
        self._guards, self._shared = guards, shared
        self._asked = 0
        self.flagged: int | None = None

    def ask(self, image: np.ndarray, source: str) -> np.ndarray:  # noqa: ARG002 - all come from one address
        """The logits of one image; the number of the first query that a Guard counted as suspicious is kept."""
        sdk = self._guards[self._asked % 2].sdk
        logits: np.ndarray = sdk.infer(WATCHED, [sdk.tensor("input", image[None])]).as_numpy("logits")[0]
        self._asked += 1
        if self.flagged is None and any(self._counted("guard_suspicious_queries_total")):
            self.flagged = self._asked
        wait_for(lambda: self._known() == self._asked)
        return logits

    def close(self) -> None:
        """Nothing is its own."""

    def _known(self) -> float:
        known = self._counted("guard_remembered_queries")
        return min(known) if self._shared else sum(known)

    def _counted(self, name: str) -> list[float]:
        return [each.counted(name, WATCHED) or 0.0 for each in self._guards]


def searched(name: str, guards: list[Guarded], *, shared: bool) -> tuple[int | None, int | None]:
    """The queries of a search at which it was first suspicious, and first succeeded.

    Searched is around the first image for which it succeeds without a Guard, and not at once.
    """
    images, net, budget = digits.load_data().test[0], digits.trained_network(), SEARCHES[name]
    with torch.no_grad():
        guessed = net(torch.from_numpy(images)).argmax(1).numpy()
    for index, (image, label) in enumerate(zip(images, guessed, strict=True)):
        start = images[guessed != label][-1:]
        alone = attacks_of.run(name, net, image[None], budget, seed=index, start=start)
        if alone.success is not None and alone.success >= SCORE:
            client = ByTurns(guards, shared=shared)
            session = Session(client, Hiding(), Others(client, images))
            fate = attack_by(name, session, image, int(label), start=start[0], budget=budget, seed=index)
            return client.flagged, fate.success
    raise AssertionError(name)


@needs_store
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_over_two_guards(loop: LoopThread, compared: Path, store: Store, tmp_path: Path, name: str) -> None:
    """Of a search that succeeds in the end each sees half. Sharing, they notice it sooner than apart, and in time."""
    with two_guards(loop, compared, tmp_path, query_store=QueryStore(url=store.url, timeout_s=30.0)) as guards:
        wait_for(lambda: {each.counted("guard_query_store_up", WATCHED) for each in guards} == {1})
        together, success = searched(name, guards, shared=True)
    with two_guards(loop, compared, tmp_path) as guards:
        apart, same = searched(name, guards, shared=False)
    assert success is not None
    assert same == success
    assert together is not None
    assert together < success
    assert apart is None or apart > together


def test_no_secret(compared: Path) -> None:
    """To share without a common secret is refused at start."""
    with pytest.raises(ConfigError, match="query_store needs noise_secret_file, the same for each replica"):
        Sidecar(settings(NOWHERE, {MODEL: policy(compared)}, query_store=QueryStore(url="redis://127.0.0.1")))


@pytest.mark.parametrize("name", ["gone", "x" * 300])
@pytest.mark.parametrize("key", ["password_file", "ca_file"])
def test_a_missing_file(compared: Path, tmp_path: Path, key: str, name: str) -> None:
    """A password or a CA that isn't there, or that can't be looked for, is refused at start."""
    (tmp_path / "secret").write_bytes(bytes(range(32)))
    chosen = QueryStore(**{"url": "rediss://127.0.0.1", key: tmp_path / name})
    with pytest.raises(ConfigError, match=rf"query_store.{key} .*{name} .*correct it"):
        Sidecar(settings(NOWHERE, {MODEL: policy(compared)}, noise_secret_file=tmp_path / "secret", query_store=chosen))
