"""`guard calibrate`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from guard.cli.words import LARGEST_SEED, AsJson, print_json, progress


class Mutation(StrEnum):
    """Kinds of sensitivity beside the Gaussian one."""

    UNIFORM = "uniform"
    SHIFT_ROTATE = "shift_rotate"
    CONTRAST_BRIGHTNESS = "contrast_brightness"


class Precision(StrEnum):
    """What a replica computes in."""

    AUTO = "auto"
    FP32 = "fp32"
    INT8 = "int8"
    FP16 = "fp16"


class Device(StrEnum):
    """Where a model file runs."""

    CPU = "cpu"
    CUDA = "cuda"


class Layout(StrEnum):
    """Where channels are in inputs; none of inputs that are no images."""

    AUTO = "auto"
    NCHW = "nchw"
    NHWC = "nhwc"
    NONE = "none"


def calibrate(
    *,
    data: Annotated[Path, typer.Option(help="Clean samples: a folder of images or npy files, an npz or an npy.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Where the profile goes.")],
    model: Annotated[Path | None, typer.Option(help="The model, an ONNX file.")] = None,
    upstream: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Or the server that has it.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A policy file whose upstream has it: address, TLS, restricted protocol.")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="Its name on the server.")] = None,
    bounds: Annotated[tuple[float, float], typer.Option(metavar="LOW HIGH", help="Of input values.")] = (0.0, 1.0),
    layout: Annotated[Layout, typer.Option(help="Of inputs; auto: by their shape.")] = Layout.AUTO,
    preprocessing: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML", help="How JPEG and PNG become the model's input, if the served model takes those."
        ),
    ] = None,
    mutation: Annotated[list[Mutation] | None, typer.Option(help="Further sensitivity detectors.")] = None,
    network: Annotated[bool, typer.Option(help="Train detector networks; confident attacks pass without.")] = True,
    occlusion: Annotated[bool, typer.Option(help="Cover parts of images; stickers are found less without.")] = True,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:MOST",
            help="A harmless change to expect, such as jpeg:70, blur:0.6, resize:0.75, brightness:0.1, contrast:0.2 or "
            "noise:4 (of 255); in place of these six. none: inputs never change.",
        ),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of the replica; other than fp32 only if it is faster and agrees.")
    ] = Precision.FP32,
    device: Annotated[Device, typer.Option(help="Where the model file runs; best as in the policy.")] = Device.CPU,
    radius_sigmas: Annotated[float, typer.Option(min=0.01, max=3.0, help="Radius to certify, in sigmas.")] = 0.5,
    shared_noise: Annotated[
        bool,
        typer.Option(
            "--shared-noise",
            help="Sensitivity under the noise of certificates: fewer evaluations where the policy asks for both, fewer "
            "attacks caught.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of splits and training.")] = 0,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster that screens; local: all cores of this machine."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on clean samples and write its profile."""
    from guard import values
    from guard.config import Device as Place
    from guard.config import Upstream
    from guard.config_file import load_upstream
    from guard.environment import check_onnxruntime
    from guard.observe.logs import configure_logging
    from guard.offline.command import calibrate_to
    from guard.offline.options import Options, parse
    from guard.offline.source import Source, read_preprocessing

    check_onnxruntime()
    configure_logging(json=False, level="warning")
    server = Upstream() if config is None else load_upstream(config)
    source = Source(
        model=model,
        upstream=server.address if upstream is None and config is not None else upstream,
        model_name=model_name,
        bounds=bounds,
        device=Place(device.value),
        reached_by=server,
        layout={"nchw": values.Layout.CHW, "nhwc": values.Layout.HWC, "none": values.Layout.NONE}.get(layout),
        preprocessing=None if preprocessing is None else read_preprocessing(preprocessing),
    )
    options = Options(
        seed=seed,
        radius_sigmas=radius_sigmas,
        shared_noise=shared_noise,
        mutations=tuple(dict.fromkeys(str(kind) for kind in mutation or ())),
        network=network,
        occlusion=occlusion,
        precision=precision.value,
        ray=ray,
        conditions=tuple(parse(each) for each in condition if each != "none") if condition else None,
    )
    profile = calibrate_to(source, data, out_folder, options, progress(as_json=as_json))
    if as_json:
        from guard.offline.show import facts

        print_json({"folder": str(out_folder), **facts(profile)})
