"""Mistakes in what the settings say of both hops: certificates, keys, secrets, and options without effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guard.config_file.document import Document, Mistake
from guard.credentials import watch_credentials, watch_secret
from guard.errors import FileUnusable

_FILES = {
    "listen": ("certificate_file", "key_file", "client_ca_file"),
    "upstream": ("certificate_file", "key_file", "ca_file"),
}


def check(document: Document, base: Path) -> Iterator[Mistake]:
    """Yield the mistakes that validation can't see."""
    upstream, listen = (_mapping(document.data.get(section)) for section in ("upstream", "listen"))
    for section, settings in (("listen", listen), ("upstream", upstream)):
        yield from _check_tls(document, base, section, _mapping(settings.get("tls")))
    file = _mapping(upstream.get("restricted_protocol")).get("value_file")
    if isinstance(file, str):
        try:
            watch_secret("upstream.restricted_protocol.value_file", base / file, quiet=True)
        except FileUnusable as exc:
            yield _mistake(document, exc)
    address = listen.get("address")
    served = (address, listen.get("envoy_address"))
    if "socket_access" in listen and not any(str(each).startswith("unix:") for each in served):
        yield document.mistake(
            ("listen", "socket_access"),
            "listen.socket_access has no effect where listen.address is no unix:path",
            "write `address: unix:/path/to/socket`, or remove socket_access",
        )
    if isinstance(address, str) and address.startswith("unix:") and address == upstream.get("address"):
        yield document.mistake(
            ("upstream", "address"),
            f"upstream.address is guard's own listen.address, {address}: guard would call itself",
            "write the socket of the guarded server's gRPC endpoint",
        )


def _check_tls(document: Document, base: Path, section: str, tls: Mapping[str, Any]) -> Iterator[Mistake]:
    """Each file that can't be read; if there is none, what is wrong with their contents."""
    files = [(name, base / tls[name]) for name in _FILES[section] if isinstance(tls.get(name), str)]
    unreadable = [mistake for name, path in files for mistake in _unreadable(document, (section, "tls", name), path)]
    yield from unreadable
    if section == "listen" and not {"certificate_file", "key_file"} <= tls.keys():
        return  # validation misses them
    if files and not unreadable:
        try:
            watch_credentials(f"{section}.tls", files, quiet=True)
        except FileUnusable as exc:
            yield _mistake(document, exc)


def _unreadable(document: Document, where: tuple[str, ...], path: Path) -> Iterator[Mistake]:
    try:
        path.open("rb").close()
    except OSError as exc:
        setting = ".".join(where)
        problem = f"{setting} {path} can't be read ({exc.strerror})"
        yield document.mistake(where, problem, "correct the path, which is relative to this file")


def _mistake(document: Document, error: FileUnusable) -> Mistake:
    return document.mistake(tuple(error.setting.split(".")), error.problem, error.remedy)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
