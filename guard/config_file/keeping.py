"""Mistakes in what the settings say of the audit log, and of traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from guard.audit.keys import CAPTURE_KEY, PSEUDONYM_KEY, watch_key
from guard.config import Tracing
from guard.config_file.document import Document, Mistake
from guard.errors import FileUnusable
from guard.paths import no_file
from guard.recording import LEAST_SEGMENTS, VOLUME_SHARE, Audit


def check(document: Document, base: Path) -> Iterator[Mistake]:
    """Yield the mistakes that validation can't see."""
    yield from _check_tracing(document, base)
    audit = document.data.get("audit")
    if not isinstance(audit, dict):
        return
    captures = audit.get("captures") if isinstance(audit.get("captures"), dict) else {}
    yield from _without_effect(document, audit, captures or {})
    files = ((PSEUDONYM_KEY, audit.get("pseudonym_key_file")), (CAPTURE_KEY, (captures or {}).get("key_file")))
    for setting, file in files:
        if isinstance(file, str):
            try:
                watch_key(setting, base / file, quiet=True)
            except FileUnusable as exc:
                yield document.mistake(tuple(setting.split(".")), exc.problem, exc.remedy)
    try:
        settings = Audit.model_validate(audit)
    except ValidationError:
        return
    if settings.log_bytes < LEAST_SEGMENTS * settings.segment_bytes:
        yield document.mistake(
            ("audit", "volume_bytes" if "volume_bytes" in audit else "segment_bytes"),
            f"{VOLUME_SHARE:.0%} of audit.volume_bytes, less what captures take, is {settings.log_bytes} bytes, and "
            f"{LEAST_SEGMENTS} segments take {LEAST_SEGMENTS * settings.segment_bytes}",
            "raise audit.volume_bytes to the volume's size limit, or lower segment_bytes or captures.max_bytes",
        )


def _without_effect(document: Document, audit: Mapping[str, Any], captures: Mapping[str, Any]) -> Iterator[Mistake]:
    if audit.get("folder") is None:
        for key in audit:
            if key != "folder" and key in Audit.model_fields:
                yield document.mistake(
                    ("audit", key), f"audit.{key} has no effect without audit.folder", f"add `folder:`, or remove {key}"
                )
    elif audit.get("pseudonym_key_file") is None:
        yield document.mistake(
            ("audit", "folder"),
            "audit.folder needs audit.pseudonym_key_file: records name clients by keyed pseudonyms",
            "add `pseudonym_key_file: FILE` and run `head -c 32 /dev/urandom > FILE`",
        )
    for key in ("ttl_s", "max_bytes"):
        if captures.get("key_file") is None and captures.get(key) is not None:
            yield document.mistake(
                ("audit", "captures", key),
                f"audit.captures.{key} has no effect without audit.captures.key_file: no input is kept",
                f"add `key_file: FILE`, or remove {key}",
            )


def _check_tracing(document: Document, base: Path) -> Iterator[Mistake]:
    tracing = document.data.get("tracing")
    if not isinstance(tracing, dict):
        return
    for key in tracing if tracing.get("address") is None else ():
        if key != "address" and key in Tracing.model_fields:
            yield document.mistake(
                ("tracing", key),
                f"tracing.{key} has no effect without tracing.address",
                f"add `address: HOST:PORT` of an OTLP collector (gRPC, usually port 4317), or remove {key}",
            )
    file = tracing.get("ca_file")
    if isinstance(file, str) and (why := no_file(base / file)):
        yield document.mistake(
            ("tracing", "ca_file"),
            f"tracing.ca_file {base / file} {why}",
            "correct the path, which is relative to this file, or leave it out",
        )
    elif isinstance(file, str) and tracing.get("tls", False) is False and tracing.get("address") is not None:
        yield document.mistake(
            ("tracing", "ca_file"),
            "tracing.ca_file has no effect without TLS",
            "add `tls: true`, or remove ca_file",
        )
