"""Where the model of a calibration is, and how what is served becomes its input, as a person says it.

Nothing that takes long to import is imported here: what was typed wrong is told before that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import ValidationError

from guard.channel import Link
from guard.config import Device, Upstream
from guard.errors import BackendError, ConfigError
from guard.profile.spec import ImagePreprocessing, Preprocessing, ServerPreprocessing
from guard.values import Layout


@dataclass(frozen=True, slots=True)
class Source:
    """Where the model is: a file, or a server that has it under a name. `device` is where a file runs.

    `layout` is where channels are in its inputs; without it the server's configuration tells, or the shape. With a
    `preprocessing` the model that is served takes encoded images, and the file is what comes behind it.
    `reached_by` are the settings of a policy for its server, but for the address: TLS and the secret.

    Raises:
        ConfigError: neither or both, bounds that are none, or a device for a server.
    """

    model: Path | None
    upstream: str | None
    model_name: str | None
    bounds: tuple[float, float]
    device: Device = Device.CPU
    layout: Layout | None = None
    preprocessing: Preprocessing | None = None
    reached_by: Upstream = field(default_factory=Upstream)

    def __post_init__(self) -> None:
        if self.preprocessing is not None:
            self._check_preprocessed()
        elif (self.model is None) == (self.upstream is None):
            raise ConfigError(
                "say either --model model.onnx, or --upstream host:port --model-name NAME, or --config policy.yaml "
                "--model-name NAME"
            )
        if self.upstream is not None and "://" in self.upstream:
            raise ConfigError(f"--upstream {self.upstream}: write host:port of the server's gRPC, without a scheme")
        if self.preprocessing is None and self.upstream is not None and not self.model_name:
            raise ConfigError(f"name the model with --model-name: the server at {self.upstream} may have several")
        if self.model is None and self.device is not Device.CPU:
            raise ConfigError(f"--device {self.device} is for a --model file: leave it out where a server has it")
        low, high = self.bounds
        if not -math.inf < low < high < math.inf:
            raise ConfigError(f"--bounds {low:g} {high:g}: give two finite numbers, the smaller one first")

    @property
    def server(self) -> Link | None:
        """The server that has the model.

        Raises:
            ConfigError: a certificate, a key or a secret can't be used.
        """
        return None if self.upstream is None else Link(self.reached_by.model_copy(update={"address": self.upstream}))

    def check_file(self) -> None:
        """Look whether the file can be read, before what takes long.

        Raises:
            BackendError: it can't.
        """
        try:
            if self.model is not None:
                self.model.open("rb").close()
        except OSError as exc:
            raise BackendError(f"{self.model} can't be read ({exc.strerror}): check --model") from exc

    def _check_preprocessed(self) -> None:
        if self.model is None:
            raise ConfigError("--preprocessing needs --model, the ONNX file that takes what it makes")
        if isinstance(self.preprocessing, ServerPreprocessing) != (self.upstream is not None):
            raise ConfigError(
                "--upstream goes with a --preprocessing that names an upstream_model, which is asked there, and with "
                "no other"
            )


def read_preprocessing(file: Path) -> Preprocessing:
    """Read how encoded images become the model's input.

    Raises:
        ConfigError: it can't be read, or says something impossible.
    """
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"--preprocessing {file} can't be read ({exc.strerror}); check the path") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        mark, problem = getattr(exc, "problem_mark", None), getattr(exc, "problem", None)
        where = "" if mark is None else f":{mark.line + 1}"
        raise ConfigError(f"--preprocessing {file}{where}: this is not YAML: {problem or 'it is no text'}") from exc
    kind = ServerPreprocessing if isinstance(said, dict) and "upstream_model" in said else ImagePreprocessing
    try:
        return kind.model_validate(said)
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in exc.errors())
        raise ConfigError(f"--preprocessing {file}: {wrong}") from exc
