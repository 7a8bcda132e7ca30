"""`guard serve`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from pydantic import ValidationError

from guard.cli.words import flag, other_way, out, summary
from guard.config import Settings, Unlisted, Upstream, host_and_port
from guard.errors import AddressUnusable, ConfigError, GuardError
from guard.values import Mode

if TYPE_CHECKING:
    from guard.app import Reload, Sidecar

_WITH_PROFILE = ("mode", "false_positive_rate")
_WITH_EMBEDDED = ("profile", *_WITH_PROFILE, "address", "admin_address", "console")
_log = structlog.get_logger(__name__)


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    TEXT = "text"


def serve(
    *,
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option(help="The policy file.")] = None,
    embedded: Annotated[Path | None, typer.Option(metavar="MODEL.onnx", help="Serve this model as well.")] = None,
    profile: Annotated[Path | None, typer.Option(help="With --embedded: the model's profile.")] = None,
    mode: Annotated[Mode, typer.Option(help="With --embedded: what to do about verdicts.")] = Mode.FLAG,
    false_positive_rate: Annotated[float, typer.Option(help="With --embedded: of benign inputs.")] = 0.05,
    address: Annotated[str, typer.Option(help="With --embedded: where Guard listens.")] = "127.0.0.1:8011",
    admin_address: Annotated[str, typer.Option(help="With --embedded: metrics and health.")] = "127.0.0.1:9011",
    console: Annotated[bool, typer.Option("--console", help="With --embedded: a web page on the admin port.")] = False,
    log_format: Annotated[LogFormat, typer.Option(help="json for machines.")] = LogFormat.TEXT,
    log_level: Annotated[str, typer.Option(help="debug logs every decision.")] = "info",
) -> None:
    """Serve: Guard in front of your server (--config), or with a small server of its own (--embedded)."""
    if ctx.args:
        raise other_way("with", f"serve --config {ctx.args[0]}")
    from guard.observe.logs import configure_logging

    configure_logging(json=log_format is LogFormat.JSON, level=log_level)
    with _reporting(log_format):
        if (config is None) == (embedded is None):
            raise ConfigError("say either --config policy.yaml, or --embedded model.onnx")
        if config is not None:
            _refuse(ctx, _WITH_EMBEDDED, "with --config, write these in the policy file instead")
            asyncio.run(_serve_policy(config))
        elif embedded is not None:
            if profile is None:
                _refuse(ctx, _WITH_PROFILE, "nothing is screened without --profile: give one, or leave out")
            else:
                _look_at(profile)
            policy = {"profile": profile, "model": embedded, "mode": mode, "false_positive_rate": false_positive_rate}
            listen = {"address": address, "admin_address": admin_address}
            settings = _embedded_settings(embedded.stem, policy if profile is not None else {}, listen, console=console)
            with _naming_options():
                asyncio.run(_serve(settings, embedded))


@contextmanager
def _reporting(log_format: LogFormat) -> Iterator[None]:
    """Where the log is for machines, what ends the command is a line of it like all others."""
    try:
        yield
    except GuardError as exc:
        if log_format is LogFormat.TEXT:
            raise
        _log.critical("guard can't serve", code=exc.code, problem=str(exc))
        raise typer.Exit(exc.exit_code) from exc


@contextmanager
def _naming_options() -> Iterator[None]:
    """Name the option where an error names the setting that it became: `--address` for `listen.address`."""
    try:
        yield
    except AddressUnusable as exc:
        raise AddressUnusable(exc.address, flag(exc.setting.removeprefix("listen.")), exc.why) from exc


def _refuse(ctx: typer.Context, options: tuple[str, ...], why: str) -> None:
    """Refuse options that would be given without effect: who asks to enforce must not be left with a watcher."""
    given = [flag(name) for name in options if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if given:
        raise ConfigError(f"{why}: {', '.join(given)}")


def _look_at(profile: Path) -> None:
    """Tell what is wrong with a profile before the imports, which take seconds."""
    from guard.profile import store

    store.load(profile)


def _embedded_settings(
    name: str, policy: Mapping[str, object], listen: Mapping[str, str], *, console: bool
) -> Settings:
    from guard.config_file import english
    from guard.console.access import is_loopback

    settings = {
        "listen": listen,
        "console": {"enabled": console},
        "unlisted_models": Unlisted.DENY if policy else Unlisted.PASS,
        "models": {name: policy} if policy else {},
    }
    try:
        made = Settings.model_validate(settings)
    except ValidationError as exc:
        mistakes = [english.of_option(error, flag(str(error["loc"][-1]))) for error in exc.errors()]
        raise ConfigError("\n".join(mistakes)) from exc
    if console and not is_loopback(host_and_port(made.listen.admin_address)[0]):
        raise ConfigError(
            f"--console would show flagged inputs to whoever reaches --admin-address {made.listen.admin_address}; let "
            "that be 127.0.0.1, or write a policy with console.token_file and serve with --config"
        )
    return made


async def _serve_policy(config: Path) -> None:
    """Run as a policy file says, and goes on to say; SIGHUP has it read at once."""
    from guard.config_file import load_settings

    load_settings(config)  # mistakes are told before the imports, which take seconds
    from guard.app import Reload

    reload = Reload(config)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.at_once)
    await _serve(load_settings(config), None, reload)


async def _serve(settings: Settings, embedded: Path | None, reload: Reload | None = None) -> None:
    """Run until SIGINT or SIGTERM, with the embedded server behind Guard if a model file says so. SIGUSR1 drains it."""
    from guard.embedded import EmbeddedServer

    server = None if embedded is None else EmbeddedServer({embedded.stem: embedded})
    from guard.app import serve  # after the model's file was read: this takes seconds

    stop, drain = asyncio.Event(), asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, drain.set)
    if server is not None:
        port = await server.start()
        settings = settings.model_copy(update={"upstream": Upstream(address=f"127.0.0.1:{port}")})
    try:
        await serve(settings, stop, lambda sidecar: _announce(sidecar, settings, embedded), reload, drain)
    finally:
        if server is not None:
            await server.stop(grace_s=1.0)


def _where(port: int, address: str) -> str:
    """A port, or the Unix socket that has none."""
    return f"port {port}" if port else address


def _host(settings: Settings) -> str:
    """The host of the admin port as URLs have it."""
    return settings.listen.admin_address.rpartition(":")[0]


def _announce(sidecar: Sidecar, settings: Settings, embedded: Path | None) -> None:
    from guard.console.site import HOME

    http = f"HTTP on port {sidecar.http_port}, " if sidecar.http_port else ""
    for_envoy = settings.listen.envoy_address
    envoy = f"Envoy on {_where(sidecar.envoy_port, for_envoy)}, " if for_envoy else ""
    where = _where(sidecar.grpc_port, settings.listen.address)
    page = f", the console at http://{_host(settings)}:{sidecar.admin_port}{HOME}" if settings.console.enabled else ""
    out.print(
        f"Guard serves gRPC on {where}, {http}{envoy}metrics and health on port {sidecar.admin_port}{page}; "
        f"{summary(settings)}. Ctrl-C stops it.",
        soft_wrap=True,
    )
    if embedded is not None and not settings.models:
        out.print(
            f"Nothing is screened without a profile, only counted. Make one:\n  guard calibrate --model {embedded} "
            "--data clean-samples/ --out profile/\nand serve with --profile profile/.",
            style="yellow",
            soft_wrap=True,
        )
