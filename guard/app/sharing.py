"""The query store that the settings name, if they name one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guard.config import Settings
from guard.environment import check_redis
from guard.errors import ConfigError
from guard.observe.metrics import Metrics
from guard.paths import no_file
from guard.sharing import store_address

if TYPE_CHECKING:
    from guard.queries.store import QueryStore


def open_store(settings: Settings, metrics: Metrics) -> QueryStore | None:
    """The store through which replicas share their queries, not connected yet; None where each remembers alone.

    Raises:
        GuardError: a file is missing, or the client library is.
    """
    store = settings.query_store
    if store.url is None:
        return None
    check_redis()
    from guard.queries.store import QueryStore  # noqa: PLC0415 - an extra brings the client library

    if settings.noise_secret_file is None:
        raise ConfigError(
            "query_store needs noise_secret_file, the same for each replica, or none understands another's fingerprints"
        )
    if store.ca_file is not None and (why := no_file(store.ca_file)):
        raise ConfigError(f"query_store.ca_file {store.ca_file} {why}; correct it or leave it out")
    return QueryStore(
        store_address(store.url),
        metrics,
        password=None if store.password_file is None else _password(store.password_file),
        ca_file=None if store.ca_file is None else str(store.ca_file),
        timeout_s=store.timeout_s,
    )


def _password(path: Path) -> str:
    """What is in the file, without the line's end that editors add."""
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise ConfigError(f"query_store.password_file {path} can't be read ({why}); correct it") from exc
