"""Files that prove who somebody is: certificates, keys and secrets. They are read again when they change.

Kubernetes and cert-manager replace them while Guard runs. What can't be used leaves in use what was read before.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from guard.errors import FileUnusable

LOOK_INTERVAL_S = 0.25
_SOON = timedelta(days=7)
_METADATA_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
"""What gRPC can carry: printable ASCII that neither begins nor ends with a space."""

_Value = TypeVar("_Value")
_log = structlog.get_logger(__name__)


class Watched(Generic[_Value]):
    """What files hold, by setting. Who asks gets what they hold, or held a moment ago. Safe to call from any thread.

    `parse` makes a value of their contents, given the one in use so far, None at first. `remark` says what there is to
    say of a value that can be used, "" if nothing. A `quiet` one leaves it to another to log.

    Raises:
        FileUnusable: they can't be read, or `parse` says so.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        parse: Callable[[Mapping[str, bytes], _Value | None], _Value],
        *,
        remark: Callable[[_Value], str] = lambda _: "",
        quiet: bool = False,
    ) -> None:
        self.files = dict(files)
        self._parse, self._remark, self._quiet = parse, remark, quiet
        self._lock = threading.Lock()
        self._contents = _read(self.files)
        self._value = parse(self._contents, None)
        self._looked_s = time.monotonic()
        self._problem = self._remarked = ""
        self._say(self._remark(self._value))

    def current(self) -> _Value:
        """The last value that could be used: the same object until the files change."""
        with self._lock:
            if time.monotonic() - self._looked_s >= LOOK_INTERVAL_S:
                self._look()
                self._looked_s = time.monotonic()
            return self._value

    def stale(self) -> bool:
        """Whether the files can't be used as they are, so that what was read before is still in use."""
        self.current()
        return bool(self._problem)

    def _look(self) -> None:
        problem = ""
        try:
            contents = _read(self.files)
            if contents != self._contents:
                self._value = self._parse(contents, self._value)
                self._contents = contents
                if not self._quiet:
                    _log.info("changed files were read, and are in use from now on", files=list(self.files))
        except FileUnusable as error:
            problem = str(error)
        if problem and problem != self._problem and not self._quiet:
            _log.error("changed files can't be used: what was read before stays in use", problem=problem)
        self._problem = problem
        self._say(self._remark(self._value))

    def _say(self, remark: str) -> None:
        if remark and remark != self._remarked and not self._quiet:
            _log.warning(remark)
        self._remarked = remark


@dataclass(frozen=True, slots=True)
class Credentials:
    """Certificates and a key, in PEM, that belong together. `ends` says by setting when each file's certificates end.

    Of a certificate and those it rests on that is when the first ends; of authorities, the last.
    """

    certificate: bytes | None
    key: bytes | None
    authorities: bytes | None
    ends: Mapping[str, datetime]


def watch_credentials(section: str, settings: Iterable[tuple[str, object]], *, quiet: bool = False) -> WatchedTls:
    """Watch the files of a section such as `listen.tls`.

    Raises:
        FileUnusable: one can't be read, is no certificate or key, or the key is another certificate's.
    """
    files = {f"{section}.{name}": path for name, path in settings if isinstance(path, Path)}

    def parse(contents: Mapping[str, bytes], in_use: Credentials | None) -> Credentials:
        read = _credentials(section, files, contents)
        if in_use is not None:
            _refuse_ended(read, in_use, files)
        return read

    return Watched(files, parse, remark=_of_ends, quiet=quiet)


def ends_of(files: WatchedTls) -> dict[str, Callable[[], float]]:
    """What tells, by setting, when the certificates in use end, in Unix time."""
    return {setting: partial(_ends_s, files, setting) for setting in files.current().ends}


def watch_secret(setting: str, path: Path, *, quiet: bool = False) -> Watched[str]:
    """Watch a file with a secret that goes into metadata. A line's end that editors add is not part of it.

    Raises:
        FileUnusable: it can't be read, or holds what metadata can't.
    """

    def parse(contents: Mapping[str, bytes], _in_use: str | None) -> str:
        secret = contents[setting].rstrip(b"\r\n").decode("latin-1")
        if not _METADATA_VALUE.fullmatch(secret):
            raise FileUnusable(
                setting,
                f"{setting} {path} is empty, or holds more than one line of printable ASCII",
                "write one line without spaces around it",
            )
        return secret

    return Watched({setting: path}, parse, quiet=quiet)


WatchedTls = Watched[Credentials]


def _ends_s(files: WatchedTls, setting: str) -> float:
    return files.current().ends[setting].timestamp()


def _read(files: Mapping[str, Path]) -> dict[str, bytes]:
    contents = {}
    for setting, path in files.items():
        try:
            contents[setting] = path.read_bytes()
        except OSError as exc:
            raise FileUnusable(
                setting, f"{setting} {path} can't be read ({exc.strerror})", "correct the path, or who may read it"
            ) from exc
    return contents


def _credentials(section: str, files: Mapping[str, Path], contents: Mapping[str, bytes]) -> Credentials:
    certificate, key = f"{section}.certificate_file", f"{section}.key_file"
    authorities = next((setting for setting in files if setting.endswith("ca_file")), "")
    if (certificate in files) != (key in files):
        given, missing = (certificate, key) if certificate in files else (key, certificate)
        raise FileUnusable(given, f"{given} has no effect without {missing}", "name both, or none")
    ends: dict[str, datetime] = {}
    if certificate in files:
        chain = _certificates(certificate, files[certificate], contents[certificate])
        _check_key(chain[0], key, files, contents[key])
        ends[certificate] = min(each.not_valid_after_utc for each in chain)
    if authorities:
        roots = _certificates(authorities, files[authorities], contents[authorities])
        ends[authorities] = max(each.not_valid_after_utc for each in roots)
    return Credentials(contents.get(certificate), contents.get(key), contents.get(authorities), ends)


def _certificates(setting: str, path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as exc:
        raise FileUnusable(
            setting,
            f"{setting} {path} holds no certificate in PEM, or a broken one",
            "write what stands between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----, these lines included",
        ) from exc


def _check_key(certificate: x509.Certificate, setting: str, files: Mapping[str, Path], content: bytes) -> None:
    try:
        key = load_pem_private_key(content, None)
    except TypeError as exc:
        raise FileUnusable(
            setting, f"{setting} {files[setting]} is locked by a password", "write the key without one"
        ) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise FileUnusable(
            setting, f"{setting} {files[setting]} holds no private key in PEM", "name the certificate's key"
        ) from exc
    if not _belongs(key, certificate):
        other = setting.removesuffix("key_file") + "certificate_file"
        raise FileUnusable(
            setting,
            f"{setting} {files[setting]} is not the key of {other} {files[other]}",
            "name two files that belong together; the certificate itself comes first in its file",
        )


def _belongs(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)


def _refuse_ended(read: Credentials, in_use: Credentials, files: Mapping[str, Path]) -> None:
    """Certificates that have ended don't replace those that have not."""
    now = datetime.now(UTC)
    for setting, ends in read.ends.items():
        if ends <= now < in_use.ends[setting]:
            raise FileUnusable(setting, f"{setting} {files[setting]} ended on {_date(ends)}", "write one that is valid")


def _of_ends(credentials: Credentials) -> str:
    """What there is to say of certificates that have ended, or will soon."""
    now = datetime.now(UTC)
    ended = [f"{setting} ended on {_date(ends)}" for setting, ends in credentials.ends.items() if ends <= now]
    ending = [
        f"{setting} ends on {_date(ends)}" for setting, ends in credentials.ends.items() if now < ends <= now + _SOON
    ]
    said = ", ".join((*ended, *ending))
    return f"the certificate of {said}: replace it, and guard reads the new one without a restart" if said else ""


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
