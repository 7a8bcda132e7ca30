"""Certificates made for a test, of an authority of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes

    @property
    def files(self) -> dict[str, bytes]:
        """Contents of its files."""
        return {"crt": self.certificate, "key": self.key}


class Authority:
    """Signs certificates. Others trust it by `certificate`, in PEM."""

    def __init__(self, name: str = "test authority") -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = _unsigned(self._name, self._name, self._key.public_key(), DAY * 30)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = made.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def issue(self, *names: str, common: str = "", ends_in: timedelta = DAY * 30) -> Pair:
        """A certificate for DNS names and 127.0.0.1; without a name one of a client, who has no address."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])
        made = _unsigned(subject, self._name, key.public_key(), ends_in)
        if alternatives := _alternatives(names):
            made = made.add_extension(x509.SubjectAlternativeName(alternatives), critical=not common)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pair(made.sign(self._key, SHA256()).public_bytes(Encoding.PEM), pem)


class Secret:
    """Files as Kubernetes mounts them: names that point through a link, which is swapped in one step."""

    def __init__(self, folder: Path, **files: bytes) -> None:
        self.folder = folder
        self._versions = 0
        folder.mkdir()
        self.replace(**files)
        for name in files:
            self[name].symlink_to(Path("..data") / name)

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def replace(self, **files: bytes) -> None:
        """Replace all files at once."""
        self._versions += 1
        version = self.folder / f"..{self._versions}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_bytes(content)
        link = self.folder / "..new"
        link.symlink_to(version.name)
        link.replace(self.folder / "..data")


def _unsigned(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, ends_in: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
    return builder.not_valid_before(now - DAY * 60).not_valid_after(now + ends_in)


def _alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    if not names:
        return []
    return [*(x509.DNSName(name) for name in names), x509.IPAddress(IPv4Address("127.0.0.1"))]
