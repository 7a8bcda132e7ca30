"""What a person asks `guard evaluate` for, and the model and the profile that it is about.

Nothing that takes long to import is imported here: what was typed wrong is told before that.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from guard.errors import BackendError, ProfileMismatch
from guard.profile import store
from guard.profile.profile import Profile

_ATTACKED, _ATTACKED_QUICKLY = 200, 40
_DRIFTING = 5


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for. `images` is how many are attacked; `command` is for the report.

    `kept` is where what took long is kept, beside the report unless said otherwise. `ray` is the address of a cluster
    that screens, or `local`.
    """

    profile: Path
    model: Path
    data: Path
    out: Path
    labels: Path | None = None
    attacks: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    images: int | None = None
    quick: bool = False
    seed: int = 0
    command: str = ""
    kept: Path | None = None
    ray: str | None = None

    @property
    def attacked(self) -> int:
        """How many images are attacked."""
        return self.images or (_ATTACKED_QUICKLY if self.quick else _ATTACKED)

    @property
    def drifting(self) -> int:
        """How many honest images drift, in each way: more than are attacked, for a rate of one in twenty takes many.

        Not so where all that is wanted are a few attacks.
        """
        return self.attacked if self.quick or self.attacks else _DRIFTING * self.attacked


def guarded(request: Request) -> tuple[Profile, bytes]:
    """The profile, and its model's file.

    Raises:
        ProfileError: there is none, or it is damaged.
        BackendError: the file can't be read.
        ProfileMismatch: it is another model's.
    """
    profile = store.load(request.profile)
    return profile, model_of(profile, request.model)


def model_of(profile: Profile, file: Path) -> bytes:
    """The file of a profile's model.

    Raises:
        BackendError: it can't be read.
        ProfileMismatch: it is another model's.
    """
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise BackendError(f"--model {file} can't be read ({exc.strerror})") from exc
    if hashlib.sha256(content).hexdigest() != profile.model.fingerprint:
        raise ProfileMismatch(
            f"--model {file} is another model than the profile was calibrated with: name that one's file, or calibrate "
            "this one with `guard calibrate --model`"
        )
    return content
