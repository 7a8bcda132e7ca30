"""What types can't say: files that must be there, and settings that contradict each other.

The checks read the raw data, not validated settings, so that all mistakes of a file are found at once. What has the
wrong type is skipped here: validation reports it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guard.config import (
    MODEL_NAME,
    VERSION_MARK,
    Listen,
    Replica,
    Unlisted,
    Upstream,
    host_and_port,
    model_and_version,
)
from guard.config_file import console, hops, keeping
from guard.config_file.document import Document, Mistake
from guard.paths import no_file, unseen
from guard.plural import counted
from guard.profile.store import MANIFEST

MIN_SECRET_BYTES = 16
"""Shortest noise secret: 128 bits, the strength of the generator that it keys."""

_ODD_RATE = 0.5
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def check(document: Document) -> Iterator[Mistake]:
    """Yield the mistakes in a file's data that validation can't see."""
    base = document.path.parent
    yield from _check_addresses(document)
    yield from _check_secret(document, base)
    yield from _check_store(document, base)
    yield from hops.check(document, base)
    yield from keeping.check(document, base)
    yield from console.check(document, base)
    models = document.data.get("models", {})
    if models == {} and document.data.get("unlisted_models", Unlisted.DENY) == Unlisted.DENY:
        yield document.mistake(
            ("models",),
            "no model is listed and unlisted_models is deny, so nothing would ever be let through",
            "list the models to guard, or write unlisted_models: pass",
        )
    for name, policy in _mapping(models).items():
        if not re.fullmatch(MODEL_NAME, name):
            yield document.mistake(
                ("models", name),
                f"models.{name} is neither a model's name nor NAME{VERSION_MARK}VERSION",
                f"write digits, or digits{VERSION_MARK}2 for one version of it",
            )
        if isinstance(policy, dict):
            yield from _check_policy(document, base, name, policy)


def _check_policy(document: Document, base: Path, name: str, policy: Mapping[str, Any]) -> Iterator[Mistake]:
    where = ("models", name)
    profile, rate = policy.get("profile"), policy.get("false_positive_rate")
    replica = policy.get("replica", Replica.ONNX)
    manifest = base / profile / MANIFEST if isinstance(profile, str) else None
    if manifest is not None and (why := unseen(manifest)):
        remedy = "change permissions, or correct the path, which is relative to this file"
        yield document.mistake((*where, "profile"), f"{manifest} {why}", remedy)
    elif manifest is not None and not manifest.is_file():
        source = (
            f"--upstream ADDRESS --model-name {model_and_version(name)[0]}"
            if replica == Replica.UPSTREAM
            else "--model MODEL.onnx"
        )
        command = f"guard calibrate {source} --data DATA --out {manifest.parent}"
        yield document.mistake(
            (*where, "profile"),
            f"{manifest.parent} holds no profile: there is no {MANIFEST} in it",
            f"run `{command}`, or correct the path, which is relative to this file",
        )
    if replica == Replica.ONNX:
        yield from _check_model_file(document, base, name, policy.get("model"))
    if replica == Replica.UPSTREAM:
        yield from _check_without_effect(document, name, policy)
    if isinstance(rate, float) and _ODD_RATE < rate < 1:
        yield document.mistake(
            (*where, "false_positive_rate"),
            f"a false_positive_rate of {rate:g} lets guard call most benign inputs adversarial",
            "write a share such as 0.01, not a confidence",
        )


def _check_model_file(document: Document, base: Path, name: str, model: object) -> Iterator[Mistake]:
    where = ("models", name, "model")
    if model is None:
        yield document.mistake(
            where,
            f"models.{name} has replica: onnx, which needs a model file",
            "add `model: FILE.onnx`, or write replica: upstream to ask the guarded server instead",
        )
    elif isinstance(model, str) and (why := no_file(base / model)):
        yield document.mistake(
            where,
            f"{base / model} {why}",
            "correct the path, which is relative to this file, or write replica: upstream",
        )


def _check_without_effect(document: Document, name: str, policy: Mapping[str, Any]) -> Iterator[Mistake]:
    """What only an ONNX replica reads: who writes it believes that something else answers than does."""
    for key in ("model", "device"):
        if policy.get(key) is not None:
            yield document.mistake(
                ("models", name, key),
                f"models.{name}.{key} has no effect beside replica: upstream, where the guarded server itself answers",
                f"remove {key}, or write replica: onnx",
            )


def _check_addresses(document: Document) -> Iterator[Mistake]:
    listen = _mapping(document.data.get("listen"))
    serve = _host_and_port(listen.get("address", Listen().address))
    admin = _host_and_port(listen.get("admin_address", Listen().admin_address))
    upstream = _host_and_port(_mapping(document.data.get("upstream")).get("address", Upstream().address))
    http, envoy = (_host_and_port(listen.get(key)) for key in ("http_address", "envoy_address"))
    taken = {"address": serve, "admin_address": admin}
    for key, own in (("http_address", http), ("envoy_address", envoy)):
        for name, other in taken.items():
            if own is not None and other is not None and own[1] == other[1] != 0:
                yield document.mistake(
                    ("listen", key),
                    f"listen.{name} and listen.{key} both want port {own[1]}",
                    "give one of them another port",
                )
        taken[key] = own
    asked_for = _mapping(listen.get("tls")).get("client_ca_file")
    if envoy is not None and envoy[0] not in _LOOPBACK and asked_for is None:
        yield document.mistake(
            ("listen", "envoy_address"),
            f"listen.envoy_address {envoy[0]} can be reached from elsewhere, and who asks there names its own clients "
            "and is told upstream.restricted_protocol's secret",
            "write `envoy_address: 127.0.0.1:8012` for an Envoy beside guard, or set listen.tls.client_ca_file",
        )
    if serve is None or serve[1] == 0:
        return
    if admin is not None and admin[1] == serve[1]:
        yield document.mistake(
            ("listen", "admin_address" if "admin_address" in listen else "address"),
            f"listen.address and listen.admin_address both want port {serve[1]}",
            "give one of them another port",
        )
    if upstream is not None and upstream[1] == serve[1] and upstream[0] in {serve[0], *_LOOPBACK}:
        yield document.mistake(
            ("upstream", "address"),
            f"upstream.address is guard's own listen.address, port {serve[1]}: guard would call itself",
            "write the host:port of the guarded server's gRPC endpoint",
        )


def _check_secret(document: Document, base: Path) -> Iterator[Mistake]:
    secret_file = document.data.get("noise_secret_file")
    if not isinstance(secret_file, str):
        return
    path = base / secret_file
    remedy = f"run `head -c 32 /dev/urandom > {path}`"
    try:
        with path.open("rb") as file:
            length = len(file.read(MIN_SECRET_BYTES))
    except OSError as exc:
        problem = f"{path} can't be read ({exc.strerror})"
        if not isinstance(exc, FileNotFoundError):  # one that is there may be other replicas' too
            remedy = "correct the path, or who may read it"
    else:
        if length == MIN_SECRET_BYTES:
            return
        problem = f"{path} holds {counted(length, 'byte')}, and a secret needs {MIN_SECRET_BYTES} or more"
    yield document.mistake(("noise_secret_file",), problem, remedy)


def _check_store(document: Document, base: Path) -> Iterator[Mistake]:
    store = _mapping(document.data.get("query_store"))
    url = store.get("url")
    if isinstance(url, str) and document.data.get("noise_secret_file") is None:
        yield document.mistake(
            ("query_store", "url"),
            "query_store needs noise_secret_file: replicas understand the fingerprints of those with the same secret",
            "add `noise_secret_file: FILE`, the same file for each of them",
        )
    for key in ("password_file", "ca_file", "timeout_s"):
        if url is None and store.get(key) is not None:
            yield document.mistake(
                ("query_store", key),
                f"query_store.{key} has no effect without query_store.url",
                f"add `url: redis://HOST:PORT`, or remove {key}",
            )
    if isinstance(url, str) and url.startswith("redis:") and store.get("ca_file") is not None:
        yield document.mistake(
            ("query_store", "ca_file"),
            "query_store.ca_file has no effect beside redis://, which is not encrypted",
            "write rediss:// in query_store.url, or remove ca_file",
        )
    yield from _check_store_files(document, base, store)


def _check_store_files(document: Document, base: Path, store: Mapping[str, Any]) -> Iterator[Mistake]:
    for key in ("password_file", "ca_file"):
        file = store.get(key)
        if not isinstance(file, str):
            continue
        try:
            empty = not (base / file).read_bytes().strip()
        except OSError as exc:
            problem = f"{base / file} can't be read ({exc.strerror})"
        else:
            if not empty:
                continue
            problem = f"{base / file} is empty"
        yield document.mistake(
            ("query_store", key), problem, f"correct query_store.{key}, which is relative to this file, or the file"
        )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _host_and_port(address: object) -> tuple[str, int] | None:
    try:
        return host_and_port(address) if isinstance(address, str) else None
    except ValueError:
        return None
