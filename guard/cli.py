"""The command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from guard import __version__
from guard.config import Listen, ModelPolicy, Settings, Unlisted, Upstream
from guard.errors import ConfigError, GuardError
from guard.values import Mode

# Each command imports what it needs, so that `guard --help` and mistakes answer at once.
# ruff: noqa: PLC0415

app = typer.Typer(
    help="Guard screens inference traffic for adversarial inputs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
profile_app = typer.Typer(help="Look at profiles.", no_args_is_help=True)
app.add_typer(profile_app, name="profile")

_out = Console(markup=False, emoji=False, highlight=False)  # paths and names are shown as they are
_LARGEST_SEED = 2**31 - 1
_WITH_PROFILE = ("mode", "false_positive_rate")
_WITH_EMBEDDED = ("profile", *_WITH_PROFILE, "address", "admin_address")


class Mutation(StrEnum):
    """Kinds of sensitivity beside the Gaussian one."""

    UNIFORM = "uniform"
    SHIFT_ROTATE = "shift_rotate"
    CONTRAST_BRIGHTNESS = "contrast_brightness"


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    TEXT = "text"


def main() -> NoReturn:
    """Run the command line; errors of Guard's own become one message and an exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC prints is no log line, and its errors are reported
    try:
        app(standalone_mode=True)
    except GuardError as exc:
        Console(stderr=True, markup=False, emoji=False, highlight=False).print(
            f"guard: {exc}", style="red", soft_wrap=True
        )
        sys.exit(exc.exit_code)
    sys.exit(0)


def _version(show: bool) -> None:
    if show:
        _out.print(f"guard {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Guard screens inference traffic for adversarial inputs."""


@app.command()
def demo(
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="For the results.")] = None,
    keep_running: Annotated[bool, typer.Option(help="Keep the servers up at the end.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where the model and its profile go.")] = Path("guard-demo"),
    seed: Annotated[int, typer.Option(min=0, max=_LARGEST_SEED, help="Of splits, training and attacks.")] = 0,
) -> None:
    """Guard a small model, attack it, and show what was caught: a few minutes on two cores."""
    from guard.demo.run import Request, run
    from guard.observe.logs import configure_logging

    configure_logging(json=False, level="error")
    run(Request(folder=folder, seed=seed, json_file=json_file, keep_running=keep_running), _out)


@app.command()
def calibrate(
    data: Annotated[Path, typer.Option(help="Clean samples: a folder of images or npy files, an npz or an npy.")],
    out: Annotated[Path, typer.Option(help="Where the profile goes.")],
    model: Annotated[Path | None, typer.Option(help="The model, an ONNX file.")] = None,
    upstream: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Or the server that has it.")] = None,
    model_name: Annotated[str | None, typer.Option(help="Its name on the server.")] = None,
    bounds: Annotated[tuple[float, float], typer.Option(metavar="LOW HIGH", help="Of input values.")] = (0.0, 1.0),
    mutation: Annotated[list[Mutation] | None, typer.Option(help="Further sensitivity detectors.")] = None,
    network: Annotated[bool, typer.Option(help="Train a detector network; confident attacks pass without.")] = True,
    radius_sigmas: Annotated[float, typer.Option(min=0.01, max=3.0, help="Radius to certify, in sigmas.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, max=_LARGEST_SEED, help="Of splits and training.")] = 0,
) -> None:
    """Measure a model on clean samples and write its profile."""
    from guard.environment import check_onnxruntime
    from guard.observe.logs import configure_logging
    from guard.offline.calibrate import Options
    from guard.offline.command import Source, calibrate_to

    check_onnxruntime()
    configure_logging(json=False, level="warning")
    source = Source(model=model, upstream=upstream, model_name=model_name, bounds=bounds)
    options = Options(
        seed=seed,
        radius_sigmas=radius_sigmas,
        mutations=tuple(dict.fromkeys(str(kind) for kind in mutation or ())),
        network=network,
    )
    calibrate_to(source, data, out, options, _out)


@profile_app.command("show")
def profile_show(profile: Annotated[Path, typer.Argument(help="A folder written by `guard calibrate`.")]) -> None:
    """Print what a profile holds."""
    from guard.offline.show import print_profile
    from guard.profile import store

    print_profile(_out, store.load(profile))


@app.command()
def check_config(
    policy: Annotated[Path | None, typer.Argument(help="The policy file.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of policy files instead.")] = False,
) -> None:
    """Check a policy file, every mistake with its line and what to do; then load its profiles and models."""
    from guard.app import Sidecar
    from guard.config_file import json_schema, load_settings, locate

    if schema:
        _out.print_json(json.dumps(json_schema()))
        return
    if policy is None:
        raise ConfigError("name the policy file: guard check-config policy.yaml")
    settings = load_settings(policy)
    problems = []
    for name, one in settings.models.items():
        try:
            Sidecar(settings.model_copy(update={"models": {name: one}}))
        except GuardError as exc:
            problems.append(f"{locate(policy, ('models', name))}: {exc}")
    if problems:
        raise ConfigError("\n".join(problems))
    _out.print(f"{policy} is fine: {_summary(settings)}.", soft_wrap=True)


@app.command()
def serve(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option(help="The policy file.")] = None,
    embedded: Annotated[Path | None, typer.Option(metavar="MODEL.onnx", help="Serve this model as well.")] = None,
    profile: Annotated[Path | None, typer.Option(help="With --embedded: the model's profile.")] = None,
    mode: Annotated[Mode, typer.Option(help="With --embedded: what to do about verdicts.")] = Mode.FLAG,
    false_positive_rate: Annotated[float, typer.Option(help="With --embedded: of benign inputs.")] = 0.05,
    address: Annotated[str, typer.Option(help="With --embedded: where Guard listens.")] = "127.0.0.1:8011",
    admin_address: Annotated[str, typer.Option(help="With --embedded: metrics and health.")] = "127.0.0.1:9011",
    log_format: Annotated[LogFormat, typer.Option(help="json for machines.")] = LogFormat.TEXT,
    log_level: Annotated[str, typer.Option(help="debug logs every decision.")] = "info",
) -> None:
    """Serve: Guard in front of your server (--config), or with a small server of its own (--embedded)."""
    from guard.observe.logs import configure_logging

    configure_logging(json=log_format is LogFormat.JSON, level=log_level)
    if (config is None) == (embedded is None):
        raise ConfigError("say either --config policy.yaml, or --embedded model.onnx")
    if config is not None:
        from guard.config_file import load_settings

        _refuse(ctx, _WITH_EMBEDDED, "with --config, write these in the policy file instead")
        asyncio.run(_serve(load_settings(config), None))
    elif embedded is not None:
        policy = {"profile": profile, "model": embedded, "mode": mode, "false_positive_rate": false_positive_rate}
        if profile is None:
            _refuse(ctx, _WITH_PROFILE, "nothing is screened without --profile: give one, or leave out")
            policy = {}
        asyncio.run(_serve(_embedded_settings(embedded.stem, policy, address, admin_address), embedded))


def _refuse(ctx: typer.Context, options: tuple[str, ...], why: str) -> None:
    """Refuse options that would be given without effect: who asks to enforce must not be left with a watcher."""
    given = [_flag(name) for name in options if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if given:
        raise ConfigError(f"{why}: {', '.join(given)}")


def _embedded_settings(name: str, policy: Mapping[str, Any], address: str, admin_address: str) -> Settings:
    try:
        return Settings(
            listen=Listen(address=address, admin_address=admin_address),
            unlisted_models=Unlisted.DENY if policy else Unlisted.PASS,
            models={name: ModelPolicy(**policy)} if policy else {},
        )
    except ValidationError as exc:
        mistakes = [f"{_flag(str(each['loc'][-1]))} {each['input']}: {each['msg']}" for each in exc.errors()]
        raise ConfigError("; ".join(mistakes)) from exc


def _flag(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


async def _serve(settings: Settings, embedded: Path | None) -> None:
    """Run until SIGINT or SIGTERM, with the embedded server behind Guard if a model file says so."""
    from guard.app import Sidecar, serve
    from guard.embedded import EmbeddedServer

    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    server = None if embedded is None else EmbeddedServer({embedded.stem: embedded})
    if server is not None:
        port = await server.start()
        settings = settings.model_copy(update={"upstream": Upstream(address=f"127.0.0.1:{port}")})

    def started(sidecar: Sidecar) -> None:
        _out.print(
            f"Guard serves gRPC on port {sidecar.grpc_port}, metrics and health on port {sidecar.admin_port}; "
            f"{_summary(settings)}. Ctrl-C stops it.",
            soft_wrap=True,
        )
        if embedded is not None and not settings.models:
            _out.print(
                f"Nothing is screened without a profile, only counted. Make one:\n  guard calibrate --model {embedded} "
                "--data clean-samples/ --out profile/\nand serve with --profile profile/.",
                style="yellow",
                soft_wrap=True,
            )

    try:
        await serve(settings, stop, started)
    finally:
        if server is not None:
            await server.stop(grace_s=1.0)


def _summary(settings: Settings) -> str:
    guarded = [
        f"{name} ({policy.mode} at {policy.false_positive_rate:g} false positives, unscreened: {policy.on_unscreened})"
        for name, policy in settings.models.items()
    ]
    what = f"guards {', '.join(guarded)}" if guarded else "guards no model"
    return f"upstream {settings.upstream.address}; {what}; other models: {settings.unlisted_models}"
