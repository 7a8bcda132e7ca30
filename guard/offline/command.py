"""What `guard calibrate` does around the calibration: find the model, read the samples, write the profile.

What takes seconds to import is imported once the files were looked at: mistakes in paths are told before.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from guard.errors import ConfigError
from guard.offline.data import load_images, load_samples, to_layout
from guard.offline.options import Options
from guard.offline.progress import Reporter, quiet
from guard.offline.source import Source
from guard.output import make_folder
from guard.profile import store
from guard.profile.profile import Profile
from guard.values import Float32Array, ModelInfo


def calibrate_to(source: Source, data: Path, out: Path, options: Options, console: Console) -> Profile:
    """Calibrate and write the profile to `out`, with a picture.

    Raises:
        GuardError: the model, the samples or the options can't be used.
    """
    reporter = Reporter(console)
    source.check_file()
    if source.preprocessing is None:
        samples = load_samples(data, source.bounds)
        return _calibrated(source, _Clean(samples.shape[1:], lambda: samples), out, options, reporter)
    images, how, server = load_images(data), source.preprocessing, source.server
    from guard.offline.images import decoded, inputs_of, values_of

    source = replace(source, bounds=values_of(how, source.bounds))
    shape = decoded(how, images[:1], data, server, quiet()).shape[1:]
    read = partial(inputs_of, how, images, data, source.bounds, server, reporter)
    return _calibrated(source, _Clean(shape, read, images), out, options, reporter)


@dataclass(frozen=True, slots=True)
class _Clean:
    """Clean samples, and the images that they are made of. To make them may take minutes; their shape is known."""

    shape: tuple[int, ...]
    read: Callable[[], Float32Array]
    images: Sequence[bytes] = ()


def _calibrated(source: Source, clean: _Clean, out: Path, options: Options, reporter: Reporter) -> Profile:
    from guard.offline.calibrate import calibrate
    from guard.offline.images import with_images
    from guard.offline.opening import open_model
    from guard.offline.picture import draw
    from guard.offline.show import print_profile
    from guard.offline.spread import reached

    backend = open_model(source, clean.shape)
    try:
        _check_bounds(backend.info)
        make_folder(out, "--out")  # now, not after minutes of work
        with reached(backend, options.ray):  # as above
            profile = calibrate(backend, to_layout(clean.read(), backend.info.shape), options, reporter)
        if source.preprocessing is not None:
            profile = with_images(profile, source.preprocessing, clean.images, backend, source.server)
    finally:
        backend.close()
    store.save(profile, out)
    picture, console = draw(profile, out), reporter.console
    print_profile(console, profile)
    console.print(f"The profile is in {out}; benign scores as a picture: {picture}", soft_wrap=True)
    return profile


def _check_bounds(info: ModelInfo) -> None:
    """Bounds that hold two integers or fewer are not those of an integer input, but the default of a real one."""
    low, high = info.bounds
    if "INT" in info.datatype and high - low <= 1:
        raise ConfigError(
            f"model {info.name!r} takes {info.datatype}, of which --bounds {low:g} {high:g} leave next to nothing: "
            "give the model's own, for example --bounds 0 255"
        )
