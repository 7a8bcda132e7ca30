"""What callers of the four clients get wrong: one error that says what to do, and nothing dies of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from guard.client import CallFailed, Client, Retry, Tls
from guard.errors import ConfigError
from tests.client.peers import KINDS, Waiting, peer
from tests.support.certificates import Authority

WRONG_FILES = {
    "no key": ({"certificate_file": "crt"}, "name both, or none"),
    "no certificate": ({"key_file": "key"}, "name both, or none"),
    "no such authority": ({"ca_file": "gone"}, r"gone can't be read \(No such file or directory\); correct it in Tls"),
    "a folder": ({"ca_file": "."}, r"can't be read \(Is a directory\)"),
    "an authority of junk": ({"ca_file": "junk"}, "junk holds no certificates in PEM .*; correct ca_file in Tls"),
    "no such key": ({"certificate_file": "crt", "key_file": "gone"}, "gone can't be read"),
    "a certificate of junk": ({"certificate_file": "junk", "key_file": "key"}, "no certificate and its key in PEM"),
    "another's key": ({"certificate_file": "crt", "key_file": "other"}, "correct certificate_file and key_file in Tls"),
    "a locked key": ({"certificate_file": "crt", "key_file": "locked"}, "locked by a password; write the key without"),
}
WRONG_HEADERS = {
    "a space": ({"x tenant": "a"}, "'x tenant' can't be the name of a header: write letters"),
    "no name": ({"": "a"}, "'' can't be the name"),
    "another header within": (
        {"x-tenant": "a\r\nguard-screen-only: true"},
        "x-tenant can't have .*a line of printable",
    ),
    "no ASCII": ({"x-tenant": "é"}, "x-tenant can't have the value"),
    "a number": ({"x-tenant": 7}, "x-tenant can't have the value 7"),
}
IMAGE = np.zeros((1, 1, 8, 8), np.float32)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the clients."""
    return str(request.param)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with its key, the same key under a password, another key, and what is neither."""
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = Authority()
    client, other = authority.issue(common="client"), authority.issue(common="other")
    locked = load_pem_private_key(client.key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    contents = {"crt": client.certificate, "key": client.key, "other": other.key, "locked": locked, "junk": b"junk\n"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_port_that_is_none(kind: str) -> None:
    """A port that is too large is told before anything is sent: modulo 65536 it could be that of another service."""
    with pytest.raises(ConfigError, match="port 65536 is over 65535"), peer(kind, 65536, 65536):
        pass


@pytest.mark.parametrize(
    ("values", "says"),
    [([[0.0]], "'input' holds a list: give a numpy array"), (np.zeros(1, np.complex64), "'input' holds complex64")],
)
def test_tensors(kind: str, values: object, says: str) -> None:
    """What is no array, or of a type that the protocol doesn't have, is told when a tensor is made."""
    with peer(kind, 1, 1) as client, pytest.raises(ConfigError, match=says):
        client.tensor("input", values)


def ask(client: Client | Waiting, **options: object) -> None:
    """Make a call."""
    client.infer("digits", [client.tensor("input", IMAGE)], **options)


@pytest.mark.parametrize("name", WRONG_FILES)
def test_files_of_tls(files: Path, kind: str, name: str) -> None:
    """Files that can't be used are told when a client is made: gRPC ends the process for some, at the first call."""
    named, says = WRONG_FILES[name]
    tls = Tls(**{field: files / file for field, file in named.items()})
    with pytest.raises(ConfigError, match=says), peer(kind, 1, 1, tls=tls):
        pass


@pytest.mark.parametrize("name", WRONG_HEADERS)
def test_headers(kind: str, name: str) -> None:
    """Headers that gRPC or HTTP can't carry are told before anything is sent."""
    headers, says = WRONG_HEADERS[name]
    with peer(kind, 1, 1, retry=Retry(attempts=1)) as client, pytest.raises(ConfigError, match=says):
        ask(client, headers=headers)


def test_bytes_in_headers(kind: str) -> None:
    """Over gRPC a name that ends in -bin promises bytes, and a text is none."""
    with peer(kind, 1, 1, retry=Retry(attempts=1)) as client:
        with pytest.raises(ConfigError if kind.startswith("grpc") else CallFailed) as caught:
            ask(client, headers={"trace-bin": "YQ=="})
        assert ("over gRPC no -bin" in str(caught.value)) is kind.startswith("grpc")


def test_closed(kind: str) -> None:
    """A client that was closed says so; closing it twice is no mistake."""
    with peer(kind, 1, 1, retry=Retry(attempts=1)) as client:
        with pytest.raises(CallFailed):
            ask(client)
        client.close()
        with pytest.raises(ConfigError, match="the client is closed: make another"):
            ask(client)
