"""The recipes of docs/client.md and the Python on other pages, run as they stand in front of a real Guard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from guard.app import Sidecar
from guard.config import Listen, Mode, ModelPolicy
from guard.inprocess import Guard
from guard.transport import ListenTls
from tests.client.conftest import World
from tests.support.certificates import Authority
from tests.support.digits import DigitsData, attack, trained_network
from tests.support.loop import LoopThread
from tests.support.sidecars import running, settings, wait_until

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "client.md"
OTHERS = ("start.md", "verdicts.md", "reference/inprocess.md")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RECIPES = dict(
    re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
)


@dataclass(frozen=True)
class Kitchen:
    """A folder with what recipes read, and where the addresses on the page lead to."""

    folder: Path
    addresses: dict[str, str]


@pytest.fixture(scope="module")
def kitchen(
    world: World, loop: LoopThread, profile: Path, digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kitchen]:
    """Beside the Guard of all tests one with TLS."""
    folder: Path = tmp_path_factory.mktemp("recipes")
    np.save(folder / "images.npy", world.clean)
    np.save(folder / "attacked.npy", world.attack)
    shutil.copytree(profile, folder / "profile")
    shutil.copy(digits_onnx, folder / "model.onnx")
    authority = Authority()
    server, client = authority.issue("guard.example"), authority.issue(common="client")
    (folder / "ca.pem").write_bytes(authority.certificate)
    for name, pair in (("server", server), ("client", client)):
        (folder / f"{name}.pem").write_bytes(pair.certificate)
        (folder / f"{name}-key.pem").write_bytes(pair.key)
    tls = ListenTls(
        certificate_file=folder / "server.pem", key_file=folder / "server-key.pem", client_ca_file=folder / "ca.pem"
    )
    policy = ModelPolicy(
        profile=profile, model=digits_onnx, mode=Mode.ENFORCE, false_positive_rate=0.05, screening_budget_s=30.0
    )
    listen = Listen(address="127.0.0.1:0", admin_address="127.0.0.1:0", tls=tls)
    with running(loop, Sidecar(settings(world.server, {"digits": policy}, listen=listen))) as guard:
        wait_until(guard)
        grpc_port, http_port = world.ports
        yield Kitchen(
            folder,
            {
                "127.0.0.1:8011": f"127.0.0.1:{grpc_port}",
                "localhost:8011": f"127.0.0.1:{grpc_port}",
                "127.0.0.1:8010": f"127.0.0.1:{http_port}",
                "127.0.0.1:8443": f"127.0.0.1:{guard.grpc_port}",
                "127.0.0.1:8001": world.server,
            },
        )


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_recipe(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    """Each prints what its comments say, line by line."""
    code = RECIPES[recipe]
    monkeypatch.chdir(kitchen.folder)
    printed, _ = cook(code, kitchen.addresses, {})
    assert printed == said(code)


def said(code: str) -> list[str]:
    """What a block prints, as its comments have it."""
    found = re.findall(r"print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
    assert found
    return found


def cook(code: str, addresses: Mapping[str, str], names: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Run a block, with names that its page presumes: what it prints, and the names that it leaves."""
    for address, where in addresses.items():
        code = code.replace(address, where)
    printed: list[str] = []

    def keep(*values: object) -> None:  # Guard, in this process, prints its log
        printed.append(" ".join(map(str, values)))

    room = {"__name__": "recipe", "print": keep, **names}
    exec(compile(code, "recipe", "exec"), room)  # noqa: S102 - our own page
    return printed, room


def test_the_start_and_verdicts(kitchen: Kitchen, world: World) -> None:
    """The client that the start makes, of a stock library, gets the marks that the page on verdicts reads."""
    (start,), (verdicts,) = (_BLOCK.findall((DOCS / name).read_text()) for name in OTHERS[:2])
    _, names = cook(start, kitchen.addresses, {"tritonclient": tritonclient})
    with names["client"] as client:
        tensor = tritonclient.grpc.InferInput("input", list(world.clean.shape), "FP32")
        tensor.set_data_from_numpy(world.clean)
        printed, _ = cook(verdicts, kitchen.addresses, {"client": client, "inputs": [tensor]})
    assert printed == said(verdicts)


def test_in_process(kitchen: Kitchen, digits_data: DigitsData, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a library Guard says which items of a batch it rejects."""
    (code,) = _BLOCK.findall((DOCS / OTHERS[2]).read_text())
    monkeypatch.chdir(kitchen.folder)
    clean, labels = (part[:20] for part in digits_data.test)
    halfway = clean + 0.5 * (attack(trained_network(), clean, labels) - clean)
    images = np.concatenate([clean, halfway.astype(np.float32)])
    drawn = []
    for _ in range(3):  # each draws noise of its own, as the page's will
        with Guard("profile/", "model.onnx", screening_budget_s=30.0) as guard:
            drawn.append([item.p_value for item in guard.screen(images).items])
    surest = images[[int(np.min(drawn, axis=0).argmax()), int(np.max(drawn, axis=0).argmin())]]
    printed, _ = cook(code, {}, {"batch": surest})
    assert printed == said(code)


def test_all_are_found() -> None:
    """No recipe of the page is left out, and no other page has Python that is not run here."""
    assert len(RECIPES) == PAGE.read_text().count("```python") == 9
    others = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if "```python" in page.read_text()}
    assert others == {PAGE.name, *OTHERS}
