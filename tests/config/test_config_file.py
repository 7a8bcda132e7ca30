"""Reading a policy file: what a right one gives, and what is said of each mistake in a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic_core import ErrorDetails

from guard.config import Cancellation, Certify, Replica, Settings, Unlisted, Upstream, host_and_port
from guard.config_file import explain, load_settings, load_upstream
from guard.config_file.document import Document
from guard.config_file.english import mistake
from guard.errors import ConfigError
from guard.sharing import StoreAddress, store_address
from guard.transport import ListenTls, RestrictedProtocol, UpstreamTls
from guard.values import Action, Mode
from tests.support.certificates import Authority

Write = Callable[[str], Path]
AUTHORITY = Authority()

GOOD = "models:\n  digits: {profile: prof, model: m.onnx}\n"
FULL = """\
upstream: {address: "unix:/run/triton.sock", cancellation: never, max_message_bytes: 4096}
listen: {address: "[::]:8011", admin_address: "localhost:9011"}
limits: {max_queued_items: 1, max_live_items: 2, max_batch_items: 3}
unlisted_models: pass
noise_secret_file: secret
query_store: {url: "rediss://guard@[::1]:6380/2", password_file: m.onnx, ca_file: secret, timeout_s: 2}
models:
  digits: &digits
    profile: prof
    replica: onnx
    model: m.onnx
    mode: enforce
    false_positive_rate: 1e-2
    on_unscreened: forward
    on_abstain: reject
    certificate: require
    screening_budget_s: 1
  5:
    <<: *digits
    mode: flag
  on: {profile: prof, replica: upstream}
"""


def test_a_full_file(write: Write) -> None:
    """Every setting is read; anchors and merge keys work; names are text, even `5` and `on`; 1e-2 is a number."""
    settings = load_settings(write(FULL))
    digits, five, on = (settings.models[name] for name in ("digits", "5", "on"))
    assert settings.upstream.address == "unix:/run/triton.sock"
    assert settings.upstream.cancellation is Cancellation.NEVER
    assert settings.unlisted_models is Unlisted.PASS
    assert (digits.mode, digits.false_positive_rate, digits.certificate) == (Mode.ENFORCE, 0.01, Certify.REQUIRE)
    assert (digits.on_unscreened, digits.on_abstain) == (Action.FORWARD, Action.REJECT)
    assert (settings.query_store.url, settings.query_store.timeout_s) == ("rediss://guard@[::1]:6380/2", 2.0)
    assert five == digits.model_copy(update={"mode": Mode.FLAG})
    assert (on.replica, on.model) == (Replica.UPSTREAM, None)
    assert explain(write(FULL)) == []


def test_defaults_are_those_of_the_settings(write: Write) -> None:
    """What a file leaves out has the default of the settings."""
    settings = load_settings(write(GOOD))
    assert settings.model_copy(update={"models": {}}) == Settings()
    assert settings.models["digits"].mode is Mode.SHADOW


def test_paths_are_relative_to_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths start at the file's folder and come out absolute, wherever the process stands."""
    path = write(FULL)
    monkeypatch.chdir(path.parent.parent)
    settings = load_settings(Path(path.parent.name) / path.name)
    assert settings.models["digits"].profile == path.parent / "prof"
    assert settings.models["digits"].model == path.parent / "m.onnx"
    assert settings.noise_secret_file == path.parent / "secret"
    assert settings.query_store.password_file == path.parent / "m.onnx"
    assert settings.query_store.ca_file == path.parent / "secret"


def test_paths_of_sections_that_may_be_left_out(write: Write) -> None:
    """Paths deep inside are relative to the file, too."""
    folder = write("").parent
    pair = AUTHORITY.issue("guard.example")
    for name, content in {**pair.files, "ca": AUTHORITY.certificate}.items():
        (folder / name).write_bytes(content)
    settings = load_settings(
        write(
            f"{GOOD}listen:\n  tls: {{certificate_file: crt, key_file: key, client_ca_file: ca}}\n"
            "upstream:\n  tls: {ca_file: ca, server_name: triton}\n"
            "  restricted_protocol: {key: guard, value_file: m.onnx}\n"
        )
    )
    listen, upstream = settings.listen.tls, settings.upstream
    assert listen == ListenTls(certificate_file=folder / "crt", key_file=folder / "key", client_ca_file=folder / "ca")
    assert upstream.tls == UpstreamTls(ca_file=folder / "ca", server_name="triton")
    assert upstream.restricted_protocol == RestrictedProtocol(key="guard", value_file=folder / "m.onnx")


def test_the_upstream_alone(write: Write) -> None:
    """Before there is a profile, the server that a policy names can be read; mistakes in it are said, no others."""
    path = write("upstream: {address: 'triton:8001', compression: gzip}\nmodels: {a: {profile: gone, model: gone}}")
    assert load_upstream(path) == Upstream(address="triton:8001", compression="gzip")
    with pytest.raises(ConfigError, match=r"^\S+:2: upstream.tls.ca_file \S+ can't be read \(No such file[^\n]*$"):
        load_upstream(write("models: {a: {profile: gone}}\nupstream: {tls: {ca_file: gone}}"))


def test_absolute_paths_stay(write: Write) -> None:
    """An absolute path is taken as it is."""
    folder = write("").parent
    settings = load_settings(write(f"models: {{a: {{profile: {folder}/prof, model: {folder}/m.onnx}}}}"))
    assert settings.models["a"].profile == folder / "prof"


def test_all_mistakes_are_reported_at_once(write: Write) -> None:
    """One run finds every mistake, by line: of keys, types, ranges, files, and settings that contradict each other."""
    path = write(
        "limits: {max_live_items: 0}\n"
        "listen: {address: nowhere, admin_address: a:1}\n"
        "models:\n"
        "  a:\n"
        "    mode: loud\n"
        "    mode: flag\n"
        "    profile: gone\n"
        "  b: {profile: prof, model: gone.onnx, colour: red}\n"
        "noise_secret_file: short\n"
    )
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    assert [line.split(": ")[0] for line in str(raised.value).splitlines()] == [
        f"{path}:{line}" for line in (1, 2, 4, 6, 7, 8, 8, 9)
    ]


def test_all_that_a_model_lacks(write: Write) -> None:
    """Two files that one model lacks are two mistakes."""
    assert [found.where for found in explain(write("models: {a: {profile: gone, model: gone.onnx}}"))] == [
        "models.a.profile",
        "models.a.model",
    ]


def test_no_model_beside_an_upstream_replica(write: Write) -> None:
    """`model:` without a value takes back what a merge key brought in, where the guarded server answers itself."""
    text = "models:\n  a: &a {profile: prof, model: m.onnx}\n  b: {<<: *a, replica: upstream, model: null}\n"
    assert explain(write(text)) == []


def test_columns_count_from_one(write: Write) -> None:
    """A mistake's column is that of its key."""
    (found,) = explain(write("models:\n  a: {profile: prof, model: m.onnx, mode: loud}"))
    assert found.column == len("  a: {profile: prof, model: m.onnx, ") + 1


def test_a_merged_mistake_is_shown_where_it_is_written(write: Write) -> None:
    """A wrong value that comes in by a merge key is reported at the anchor; one that overrides it counts."""
    anchored = "models:\n  a: &a\n    profile: prof\n    model: m.onnx\n    mode: loud\n"
    text = anchored + "  b: {<<: *a, mode: flag}\n  c: {<<: *a}"
    assert [(found.where, found.line) for found in explain(write(text))] == [
        ("models.a.mode", 5),
        ("models.c.mode", 5),
    ]


def test_a_file_that_holds_itself(write: Write) -> None:
    """An anchor inside itself ends in mistakes, not in a hang."""
    assert [found.where for found in explain(write("models: &m {a: *m}"))] == [
        "models.a.model",
        "models.a.profile",
        "models.a.a",
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file, and a folder in its place, say so."""
    (found,) = explain(tmp_path / "gone.yaml")
    assert (found.line, found.where) == (1, "")
    assert "can't be read (No such file" in found.problem
    assert "check the path" in found.remedy
    (found,) = explain(tmp_path)
    assert "Is a directory" in found.problem


def test_a_path_that_the_system_refuses(write: Write) -> None:
    """A path that can't even be looked up is a mistake, not a traceback."""
    too_long = "x" * 300
    assert [found.where for found in explain(write(f"models: {{a: {{profile: {too_long}, model: {too_long}}}}}"))] == [
        "models.a.profile",
        "models.a.model",
    ]


def test_a_mistake_of_a_kind_not_foreseen(write: Write) -> None:
    """A validation error without words of our own still reads: pydantic's sentence and the setting's description."""
    error = ErrorDetails(type="new_kind", loc=("listen", "address"), msg="It is too blue", input="a:1")
    found = mistake(error, Document(write(GOOD + "listen: {address: a:1}")))
    assert found.problem == "listen.address is `a:1`: It is too blue"
    assert found.remedy.startswith("write host:port or unix:path of Guard's gRPC endpoint")


@pytest.mark.parametrize(
    ("address", "split"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("triton.ns.svc:8001", ("triton.ns.svc", 8001)),
    ],
)
def test_host_and_port(address: str, split: tuple[str, int]) -> None:
    """Names, IPv4 and bracketed IPv6 are split at the port."""
    assert host_and_port(address) == split


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://store", StoreAddress("store", 6379, 0, None, tls=False)),
        ("rediss://guard@[::1]:6380/2", StoreAddress("::1", 6380, 2, "guard", tls=True)),
        ("redis://10.0.0.1:65535/", StoreAddress("10.0.0.1", 65535, 0, None, tls=False)),
    ],
)
def test_store_address(url: str, address: StoreAddress) -> None:
    """User, port and database may be left out."""
    assert store_address(url) == address


@pytest.mark.parametrize("address", ["", "8001", "host:", ":1", "::1:80", "[::1]", "a b:1", "host:65536", "h:1\n"])
def test_what_is_no_host_and_port(address: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match=r"host and port|over 65535"):
        host_and_port(address)
