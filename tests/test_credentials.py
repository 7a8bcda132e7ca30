"""Certificates, keys and secrets from files: what is wrong with them, and what changes while somebody watches."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs

from guard.credentials import LOOK_INTERVAL_S, watch_credentials
from guard.errors import FileUnusable
from guard.transport import ListenTls, UpstreamTls
from tests.support.certificates import DAY, Authority, Pair
from tests.support.waiting import until

AUTHORITY = Authority()
PAIR, OTHER = AUTHORITY.issue("guard.example"), AUTHORITY.issue("guard.example")
LOCKED = load_pem_private_key(PAIR.key, None).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame")
)


def write(folder: Path, shown: Pair | None, ca: bytes | None) -> dict[str, Path]:
    """Files of these contents, by setting."""
    contents = {"certificate_file": shown and shown.certificate, "key_file": shown and shown.key, "ca_file": ca}
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return {name: folder / name for name, content in contents.items() if content is not None}


@pytest.mark.parametrize(
    ("shown", "setting", "says"),
    [
        (
            Pair(b"text", PAIR.key),
            "certificate_file",
            "holds no certificate in PEM, or a broken one; write what stands",
        ),
        (Pair(PAIR.certificate[:200], PAIR.key), "certificate_file", "holds no certificate in PEM, or a broken one"),
        (Pair(PAIR.key, PAIR.key), "certificate_file", "holds no certificate in PEM"),
        (Pair(PAIR.certificate, b"text"), "key_file", "holds no private key in PEM; name the certificate's key"),
        (Pair(PAIR.certificate, PAIR.certificate), "key_file", "holds no private key in PEM"),
        (Pair(PAIR.certificate, LOCKED), "key_file", "is locked by a password; write the key without one"),
        (Pair(PAIR.certificate, OTHER.key), "key_file", "is not the key of upstream.tls.certificate_file {}"),
        (Pair(AUTHORITY.certificate + PAIR.certificate, PAIR.key), "key_file", "the certificate itself comes first"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, shown: Pair, setting: str, says: str) -> None:
    """Each mistake names setting and file, and says what to do."""
    settings = UpstreamTls(**write(tmp_path, shown, AUTHORITY.certificate))
    with pytest.raises(FileUnusable) as raised:
        watch_credentials("upstream.tls", settings)
    assert raised.value.setting == f"upstream.tls.{setting}"
    assert str(raised.value).startswith(f"upstream.tls.{setting} {tmp_path / setting} ")
    assert says.format(tmp_path / "certificate_file") in str(raised.value)


def test_what_is_missing(tmp_path: Path) -> None:
    """A file that isn't there, and a certificate without its key, are said so."""
    files = write(tmp_path, PAIR, AUTHORITY.certificate)
    with pytest.raises(
        FileUnusable, match=r"upstream.tls.certificate_file has no effect without upstream.tls.key_file"
    ):
        watch_credentials("upstream.tls", UpstreamTls(certificate_file=files["certificate_file"]))
    tls = ListenTls(
        certificate_file=files["certificate_file"], key_file=files["key_file"], client_ca_file=tmp_path / "gone"
    )
    with pytest.raises(FileUnusable, match=r"listen.tls.client_ca_file .*gone can't be read \(No such file"):
        watch_credentials("listen.tls", tls)


def test_a_chain(tmp_path: Path) -> None:
    """A certificate ends with the first of its chain, and authorities with the last of them."""
    short, long = Authority().issue("a", ends_in=DAY), Authority().issue("b", ends_in=9 * DAY)
    both = Pair(PAIR.certificate + short.certificate, PAIR.key)
    files = write(tmp_path, both, short.certificate + long.certificate)
    watched = watch_credentials("upstream.tls", UpstreamTls(**files))
    ends = watched.current().ends
    assert ends["upstream.tls.ca_file"] - ends["upstream.tls.certificate_file"] == 8 * DAY


async def test_it_warns_before_a_certificate_ends(tmp_path: Path) -> None:
    """The log warns of a certificate that ends within a week, once; one that ends later is no concern."""
    soon, later = AUTHORITY.issue("a", ends_in=6 * DAY), AUTHORITY.issue("a", ends_in=8 * DAY)
    with capture_logs() as log:
        watched = watch_credentials("upstream.tls", UpstreamTls(**write(tmp_path, soon, None)))
    assert [line["log_level"] for line in log] == ["warning"]
    assert "upstream.tls.certificate_file ends on " in log[0]["event"]
    first = watched.current()
    with capture_logs() as log:
        write(tmp_path, later, None)
        await until(lambda: watched.current() is not first, within_s=3 * LOOK_INTERVAL_S)
    assert [line["log_level"] for line in log] == ["info"]


async def test_the_same_until_it_changes(tmp_path: Path) -> None:
    """Who asks gets the same object until the files change, and again after a change that can't be used."""
    files = write(tmp_path, PAIR, AUTHORITY.certificate)
    with capture_logs() as log:
        watched = watch_credentials("upstream.tls", UpstreamTls(**files), quiet=True)
        first = watched.current()
        files["key_file"].unlink()
        await until(watched.stale, within_s=3 * LOOK_INTERVAL_S)
        assert watched.current() is first
        files["key_file"].write_bytes(PAIR.key)
        await until(lambda: not watched.stale(), within_s=3 * LOOK_INTERVAL_S)
        assert watched.current() is first
    assert log == []  # another one with the same files says it
