"""The recipes of docs/client.md, run as they stand in front of a real Guard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from guard.app import Sidecar
from guard.config import Listen, Mode, ModelPolicy
from guard.transport import ListenTls
from tests.client.conftest import World
from tests.support.certificates import Authority
from tests.support.loop import LoopThread
from tests.support.sidecars import running, settings, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
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
                "127.0.0.1:8010": f"127.0.0.1:{http_port}",
                "127.0.0.1:8443": f"127.0.0.1:{guard.grpc_port}",
                "127.0.0.1:8001": world.server,
            },
        )


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_recipe(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    """Each prints what its comments say, line by line."""
    code = RECIPES[recipe]
    expected = re.findall(r"print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
    assert expected
    for address, where in kitchen.addresses.items():
        code = code.replace(address, where)
    monkeypatch.chdir(kitchen.folder)
    printed: list[str] = []

    def keep(*values: object) -> None:  # Guard, in this process, prints its log
        printed.append(" ".join(map(str, values)))

    exec(compile(code, recipe, "exec"), {"__name__": recipe, "print": keep})  # noqa: S102 - our own page
    assert printed == expected


def test_all_are_found() -> None:
    """No recipe of the page is left out."""
    assert len(RECIPES) == PAGE.read_text().count("```python") == 9
