"""Guard as one object: what the settings ask for, put together, started, changed while it runs, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
import torch

from guard.app import swap
from guard.app.console import open_console
from guard.app.guarded import Builder
from guard.app.models import LoadedModel, load_models
from guard.app.sharing import open_store
from guard.app.swap import InForce
from guard.app.tracing import open_tracer
from guard.audit.log import AuditLog
from guard.channel import Link
from guard.config import Settings
from guard.environment import check_onnxruntime
from guard.errors import ConfigError
from guard.gate import Gate
from guard.model.backend import Backend
from guard.observe.admin import AdminServer
from guard.observe.drain import Drain
from guard.observe.metrics import Metrics
from guard.observe.upstream import UpstreamPages
from guard.wire.server import GuardServer

SWITCH_S: Final = 5e-4
"""How long a thread may keep the interpreter from the event loop: Python's own 5 ms would show in its latency."""

_Made = TypeVar("_Made")
_log = structlog.get_logger(__name__)


class Sidecar:
    """Guard, ready to start. Everything that can be wrong on this side is found here, before a port is opened.

    `replicas` gives, by model name, replicas that no policy file can name, such as a `TorchBackend`; they then answer
    in place of the policy's, and stay the caller's to close. Stop a sidecar even if it was never started.

    Raises:
        GuardError: a profile, a model file, a rate or the installation is wrong; the message says what to do.
    """

    def __init__(self, settings: Settings, replicas: Mapping[str, Backend] | None = None) -> None:
        check_onnxruntime()
        self.metrics = Metrics()
        self.secret = noise_secret(settings.noise_secret_file)
        self.refused = ""
        """Why the last change of the policy was refused, "" if it was not."""
        self._closing = AsyncExitStack()
        self._store = open_store(settings, self.metrics)
        self._builder = Builder(settings, self.secret, self._store, self.metrics)
        self._in_force = swap.put_together(self._builder, settings, load_models(settings, replicas or {}))
        self._closing.push_async_callback(self._end)
        self._show(None)
        self._gate = Gate(
            self._in_force.listed(), max_batch_items=settings.limits.max_batch_items, metrics=self.metrics
        )
        self._listen, listen = settings.listen, settings.listen
        self._drain = Drain(listen.drain_delay_s + listen.drain_grace_s)
        self._hurry = asyncio.Event()
        upstream = UpstreamPages(Link(settings.upstream), settings.upstream.metrics_address)
        self._closing.callback(upstream.close)
        self._console = open_console(settings, self)
        self._admin = AdminServer(
            settings.listen.admin_address,
            registry=self.metrics.registry,
            live=self._live,
            ready=self.unready,
            policy=self._policy,
            more={**upstream.pages(), "/wait-for-drain": self._drain.wait},
            console=None if self._console is None else self._console.site.answer,
        )
        self._audit = None if settings.audit.folder is None else AuditLog(settings.audit, self.metrics)
        if (tracer := open_tracer(settings, self.metrics)) is not None:
            self._closing.push_async_callback(asyncio.to_thread, tracer.close)
        self._tracer = tracer
        flagged = None if self._console is None else self._console.flagged
        self._server = GuardServer(
            screener=self._gate,
            settings=settings,
            metrics=self.metrics,
            ready=self._ready,
            auditors=[each for each in (self._audit, flagged) if each is not None],
            tracer=self._tracer,
        )
        self._thread: ThreadPoolExecutor | None = None
        self.grpc_port = 0
        self.http_port = 0
        self.envoy_port = 0
        self.admin_port = 0

    @property
    def in_force(self) -> InForce:
        """What requests that arrive now are screened by."""
        return self._in_force

    async def start(self) -> None:
        """Start serving. It does not wait for the upstream. While it serves, threads give the interpreter up sooner."""
        self._closing.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        try:
            swap.start(self._in_force.parts)
            for each in self._in_force.watches:
                each.start()
            if self._store is not None:
                self._store.start()
                self._closing.callback(self._store.close)
            if self._audit is not None:
                self._audit.start()
                self._closing.callback(self._audit.close)
                self.metrics.watch_audit(lambda: 0 if self._audit is None else self._audit.nbytes)
            if self._tracer is not None:
                self._tracer.start()
            if self._console is not None:
                self._console.start()
                self._closing.callback(self._console.close)
            self.admin_port = self._admin.start()
            self._closing.callback(self._admin.stop)
            self.grpc_port = await self._server.start()
            self.http_port = self._server.http_port
            self.envoy_port = self._server.envoy_port
        except BaseException:
            await self._closing.aclose()
            raise
        _log.info(
            "guard serves",
            grpc_port=self.grpc_port,
            http_port=self.http_port or None,
            envoy_port=self.envoy_port or None,
            admin_port=self.admin_port,
            models=list(self._in_force.models),
            policy=self._in_force.version,
        )

    async def change(self, settings: Settings, loaded: Mapping[str, LoadedModel]) -> bool:
        """Put another policy in force; its models that are not `loaded` go on as they are. Whether it is another.

        Only its sections `models` and `unlisted_models` may differ from the one before. Requests that began before end
        with what they began with; when it returns, they have, and what only they needed is closed.

        Raises:
            GuardError: a replica fails, and all stays as it was.
        """
        before = self._in_force
        after = await self.in_thread(swap.put_together, self._builder, settings, loaded, before)
        parts, watches = swap.beside(after.parts, before.parts), [w for w in after.watches if w not in before.watches]
        try:
            for watch in watches:
                watch.start()
            await asyncio.gather(*(watch.looked(swap.FIRST_LOOK_S) for watch in watches))
            await self.in_thread(swap.start, parts)
        except BaseException:
            await self._close(before=after, after=before)
            raise
        self._in_force = after
        listed = self._gate.swap(after.listed())
        self._show(before)
        try:
            await swap.drained(listed, before)
        finally:
            await self._close(before=before, after=after)
        return after.version != before.version

    async def in_thread(self, work: Callable[..., _Made], *arguments: object) -> _Made:
        """Do what takes time beside the event loop, one thing after the other."""
        if self._thread is None:
            one = partial(torch.set_num_threads, 1)  # the cores are shared with a server
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard-reload", initializer=one)
            self._closing.callback(self._thread.shutdown)
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments))

    async def drain(self) -> None:
        """Go on for a while, no longer ready, so that load balancers notice; then end what runs, and take no more.

        The admin port stays, and who waits for `/wait-for-drain` is answered at the end.
        """
        self._drain.begun.set()
        _log.info("draining", delay_s=self._listen.drain_delay_s, grace_s=self._listen.drain_grace_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._listen.drain_delay_s)
        await self._server.stop(self._listen.drain_grace_s)
        self._drain.ended.set()
        _log.info("drained")

    def hurry(self) -> None:
        """Cut the first part of a drain short."""
        self._hurry.set()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop taking requests, give the running ones `grace_s` seconds, and stop."""
        await self._server.stop(grace_s)
        await self._closing.aclose()

    def unready(self) -> list[str]:
        """Why Guard is not ready; empty when it is."""
        return [*(["guard is draining"] if self._drain.begun.is_set() else []), *self._in_force.unready()]

    def _live(self) -> bool:
        """An engine thread that is dead or hangs can't be brought back from inside, so the process should be."""
        return self._in_force.alive()

    async def _ready(self) -> bool:
        return not self.unready()

    def _policy(self) -> str:
        """The policy in force, for people."""
        now = self._in_force
        lines = [f"policy {now.version}", *(f"{name}: {g.model.policy.mode}" for name, g in now.models.items())]
        return "\n".join([*lines, *(["", "another was refused:", self.refused] if self.refused else [])])

    def _show(self, before: InForce | None) -> None:
        """Show what is in force in the metrics, as far as it is not shown already."""
        shown = {} if before is None else before.models
        for name, guarded in self._in_force.models.items():
            if shown.get(name) is not guarded:
                guarded.show()
        self.metrics.policy_in_force(self._in_force.version, "" if before is None else before.version)

    async def _close(self, *, before: InForce, after: InForce) -> None:
        """Close what only one of two policies needed."""
        for watch in before.watches:
            if watch not in after.watches:
                await watch.stop()
        await self.in_thread(swap.close, swap.beside(before.parts, after.parts))
        for name in before.models:
            if name not in after.models:
                self.metrics.forget_model(name)
        await self.in_thread(gc.collect)  # a replica in a cycle of references would hold its memory for long

    async def _end(self) -> None:
        for watch in self._in_force.watches:
            await watch.stop()
        swap.close(self._in_force.parts)


def noise_secret(path: Path | None) -> bytes:
    """What is in the file; without one, a fresh secret."""
    if path is None:
        return secrets.token_bytes(32)
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"noise_secret_file {path} can't be read ({exc.strerror}); correct it or leave it out"
        ) from exc
