"""A store that is gone, comes back, hangs or refuses: requests go on, and so does sharing when it can."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from tests.queries.parts import images, noisy
from tests.queries.replicas import replicas, rotate
from tests.support.stores import Store, needs_store
from tests.support.waiting import wait_for

pytestmark = needs_store

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"

TIMEOUT_S = 6.0
AT_ONCE_S = 5.0
"""Less than a replica waits for the store, and more than a look takes on a busy machine."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store that is not running yet."""
    made = Store(tmp_path)
    yield made
    made.kill()


def test_the_store_comes_later(store: Store) -> None:
    """Without a store each replica remembers alone; when there is one, it gets all that happened before."""
    attack = noisy(images(1)[0], 8)
    with replicas(store.url, {}, {}) as two:
        assert rotate(attack[:6], two, wait=False) == [False] * 6
        wait_for(lambda: all(each.failures("unreachable") > 1 for each in two))
        assert not any(each.up for each in two)
        store.start()
        wait_for(lambda: all(each.up and len(each.watch) == 6 for each in two))
        assert two[0].look(attack[6]).suspicious


def test_the_store_is_killed_and_comes_back_empty(store: Store) -> None:
    """Requests go on at once, the metrics and one line of the log say what happened, and sharing goes on by itself."""
    store.start()
    attack = noisy(images(1)[0], 12)
    with capture_logs() as logs, replicas(store.url, {}, {}) as two:
        rotate(attack[:3], two)
        store.kill()
        wait_for(lambda: not any(each.up for each in two))
        assert two[1].look(attack[3]).suspicious  # what was known stays known
        wait_for(lambda: all(each.failures("unreachable") >= 3 for each in two))
        store.start()
        wait_for(lambda: all(each.up and len(each.watch) == 4 for each in two))
        assert rotate(attack[4:], two) == [True] * 8
        assert max(two[0].look_s + two[1].look_s) < AT_ONCE_S
    told = [(each["log_level"], each["event"].partition(":")[0]) for each in logs]
    good, bad = ("info", "queries are shared through the query store"), ("warning", "the query store can't be used")
    assert sorted(told) == sorted([good, bad, good] * 2)


def test_another_store_whose_clock_is_behind(store: Store) -> None:
    """A store that comes in place of one whose clock was an hour ahead is read from its beginning."""
    store.start()
    with replicas(store.url, {}, {}) as (one, other):
        with store.client() as client:
            in_an_hour_ms = (int(time.time()) + 3600) * 1000
            client.xadd(one.seal.stream, {"q": b""}, id=f"{in_an_hour_ms}-0")
        wait_for(lambda: one.counted("unreadable") == other.counted("unreadable") == 1)
        rotate(noisy(images(1)[0], 3), [one, other])
        assert (one.counted("received"), other.counted("received")) == (1, 2)  # nothing was read twice
        store.kill()
        wait_for(lambda: not one.up and not other.up)
        one.look(images(1)[0])
        store.start()
        wait_for(lambda: len(other.watch) == 4)


def test_a_store_that_hangs_blocks_nobody(store: Store) -> None:
    """A store that takes connections and answers nothing costs no request any time; afterwards nothing counts twice."""
    store.start()
    attack, patient = noisy(images(1)[0], 8), {"timeout_s": TIMEOUT_S}
    with replicas(store.url, patient, patient) as two:
        rotate(attack[:2], two)
        store.pause()
        rotate(attack[2:6], two, wait=False)
        wait_for(lambda: all(each.failures("timeout") >= 1 for each in two))
        assert not any(each.up for each in two)
        rotate(attack[6:], two, wait=False)
        store.go_on()
        wait_for(lambda: all(each.up and len(each.watch) == 8 for each in two))
        assert max(two[0].look_s + two[1].look_s) < AT_ONCE_S
        assert two[0].look(noisy(images(1)[0], 1, seed=1)[0]).of_client == 8


def test_closing_does_not_wait_for_a_store_that_hangs(store: Store) -> None:
    """A replica stops within its time-out."""
    store.start()
    with replicas(store.url, {"timeout_s": 0.3}) as (one,):
        wait_for(lambda: one.up)
        store.pause()
        time.sleep(0.1)  # by now an exchange is under way
        started_s = time.monotonic()
    assert time.monotonic() - started_s < AT_ONCE_S
    store.go_on()


@pytest.mark.parametrize("user", ["", "guard@"], ids=["the only user", "a user of its own"])
def test_a_password(tmp_path: Path, user: str) -> None:
    """With the password queries are shared; without it, or with a wrong one, the store refuses, and that is told.

    The user may do no more than docs/architecture.md says it must.
    """
    (rules,) = re.findall(r"^ {4}ACL SETUSER guard (.*)$", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    acl = ["--user", *shlex.split(f"guard {rules}")]
    store = Store(tmp_path, [*acl, "--requirepass", "PASSWORD"], password="PASSWORD")  # noqa: S106 - a test's
    store.start()
    url = store.url.replace("//", f"//{user}")
    try:
        with replicas(url, {"password": "PASSWORD"}, {"password": "wrong"}, {}) as (right, wrong, none):
            right.look(images(1)[0])
            wait_for(
                lambda: right.counted("sent") == 1 and wrong.failures("refused") > 0 and none.failures("refused") > 0
            )
            assert [each.up for each in (right, wrong, none)] == [True, False, False]
    finally:
        store.kill()


def test_tls(tmp_path: Path) -> None:
    """rediss:// shares with a server whose certificate is signed by the CA named, and with no other."""
    options = certificates(tmp_path)
    store = Store(tmp_path, [*options, "--tls-auth-clients", "no"], ssl=True, ssl_ca_certs=str(tmp_path / "ca.pem"))
    store.start()
    url = store.url.replace("redis:", "rediss:")
    try:
        with replicas(url, {"ca_file": str(tmp_path / "ca.pem")}, {}) as (right, unknown):
            right.look(images(1)[0])
            wait_for(lambda: right.counted("sent") == 1 and unknown.failures("unreachable") > 0)
            assert [each.up for each in (right, unknown)] == [True, False]
    finally:
        store.kill()


def certificates(folder: Path) -> list[str]:
    """A CA and a server's certificate by it in a folder, and the server's options."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    yesterday, tomorrow = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
    for name, public, names, is_ca in (("ca", ca_key, authority, True), ("server", key, x509.Name([]), False)):
        certificate = (
            x509.CertificateBuilder(authority, names, public.public_key(), x509.random_serial_number())
            .not_valid_before(yesterday)
            .not_valid_after(tomorrow)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files = {"--tls-cert-file": "server.pem", "--tls-key-file": "key.pem", "--tls-ca-cert-file": "ca.pem"}
    return [word for option, file in files.items() for word in (option, str(folder / file))]


def test_a_store_that_is_full(tmp_path: Path) -> None:
    """A store without room refuses; what was not sent is sent when there is room again."""
    store = Store(tmp_path, ["--maxmemory", "1"])
    store.start()
    try:
        with replicas(store.url, {}, {}) as two, store.client() as client:
            wait_for(lambda: all(each.up for each in two))
            two[0].look(images(1)[0])
            wait_for(lambda: two[0].failures("refused") > 0)
            assert (two[0].up, two[1].up) == (False, True)
            client.config_set("maxmemory", 0)
            wait_for(lambda: len(two[1].watch) == 1)
    finally:
        store.kill()
