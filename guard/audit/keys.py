"""The keys of evidence, read again when their files change: clients' pseudonyms, and captured inputs."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from guard.credentials import Watched
from guard.errors import FileUnusable
from guard.plural import counted
from guard.recording import CAPTURE_KEY_BYTES, MIN_KEY_BYTES

PSEUDONYM_KEY: Final = "audit.pseudonym_key_file"
CAPTURE_KEY: Final = "audit.captures.key_file"
_ID_DIGITS = 16
_PSEUDONYM_DIGITS = 32


def watch_key(setting: str, path: Path, *, quiet: bool = False) -> Watched[bytes]:
    """Watch a file with a key.

    Raises:
        FileUnusable: it can't be read, or is no key.
    """

    def parse(contents: Mapping[str, bytes], _in_use: bytes | None) -> bytes:
        return check_key(setting, path, contents[setting])

    return Watched({setting: path}, parse, quiet=quiet)


def check_key(setting: str, path: Path, content: bytes) -> bytes:
    """The key that a file holds.

    Raises:
        FileUnusable: it is no key.
    """
    exact = setting == CAPTURE_KEY
    needed = f"{CAPTURE_KEY_BYTES}" if exact else f"{MIN_KEY_BYTES} or more"
    if (len(content) != CAPTURE_KEY_BYTES) if exact else (len(content) < MIN_KEY_BYTES):
        raise FileUnusable(
            setting,
            f"{setting} {path} holds {counted(len(content), 'byte')}, and a key needs {needed}",
            f"run `head -c {CAPTURE_KEY_BYTES} /dev/urandom > {path}`",
        )
    return content


def key_id(key: bytes) -> str:
    """What names a key in records, and tells nothing of it."""
    return hmac.digest(key, b"guard audit key", "sha256").hex()[:_ID_DIGITS]


def pseudonym(key: bytes, client: str) -> str:
    """A client's name for who does not know it: the same for the same key."""
    name = client.encode(errors="surrogatepass")
    return hmac.digest(key, b"guard audit client\0" + name, hashlib.sha256).hex()[:_PSEUDONYM_DIGITS]
