"""A profile on disk: a directory of JSON, npz and ONNX. Nothing in it executes on load."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from guard.errors import ProfileError
from guard.output import writing
from guard.profile.profile import BenignScores, Canaries, Profile, Provenance
from guard.profile.spec import Condition, DetectorSpec, Joint, NetworkSpec, Preprocessing, QueryRadii, ReducedReplica
from guard.values import ModelInfo

FORMAT = 3
MANIFEST = "profile.json"
ARRAYS = "scores.npz"

_REMAKE = "make it again with `guard calibrate`"
_INFO: TypeAdapter[ModelInfo] = TypeAdapter(ModelInfo)
_PROVENANCE: TypeAdapter[Provenance] = TypeAdapter(Provenance)
_DETECTORS: TypeAdapter[tuple[DetectorSpec, ...]] = TypeAdapter(tuple[DetectorSpec, ...])
_CONDITIONS: TypeAdapter[tuple[Condition, ...]] = TypeAdapter(tuple[Condition, ...])
_PREPROCESSING: TypeAdapter[Preprocessing | None] = TypeAdapter(Preprocessing | None)
_JOINT: TypeAdapter[Joint | None] = TypeAdapter(Joint | None)
_RADII: TypeAdapter[QueryRadii | None] = TypeAdapter(QueryRadii | None)
_REPLICA: TypeAdapter[ReducedReplica | None] = TypeAdapter(ReducedReplica | None)


def save(profile: Profile, directory: Path) -> None:
    """Write a profile into `directory`, which is created; files of an older profile there are replaced.

    The manifest goes last and holds the hash of the arrays, so that a write cut short is noticed.

    Raises:
        DataError: it can't be written to.
    """
    with writing(directory):
        _save(profile, directory)


def _save(profile: Profile, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, npt.NDArray[Any]] = {
        "canary_inputs": profile.canaries.inputs,
        "canary_logits": profile.canaries.logits,
        "sample_hashes": profile.sample_hashes,
    }
    for part, scores in (("reference", profile.reference), ("calibration", profile.calibration)):
        arrays[f"{part}_labels"] = scores.labels
        arrays |= {f"{part}_score_{name}": values for name, values in scores.scores.items()}
        if scores.groups is not None:
            arrays[f"{part}_groups"] = scores.groups
    if profile.known_attacks is not None:
        arrays["known_attacks"] = profile.known_attacks
    if profile.canaries.encoded:
        arrays["canary_images"] = np.frombuffer(b"".join(profile.canaries.encoded), np.uint8)
        arrays["canary_sizes"] = np.array([len(each) for each in profile.canaries.encoded], np.int64)
    np.savez_compressed(directory / ARRAYS, allow_pickle=False, **arrays)
    for name, content in profile.files.items():
        (directory / name).write_bytes(content)
    manifest = {
        "format": FORMAT,
        "arrays_sha256": _sha256((directory / ARRAYS).read_bytes()),
        "model": _INFO.dump_python(profile.model, mode="json"),
        "detectors": _DETECTORS.dump_python(profile.detectors, mode="json"),
        "replica": _REPLICA.dump_python(profile.replica, mode="json"),
        "conditions": _CONDITIONS.dump_python(profile.conditions, mode="json"),
        "preprocessing": _PREPROCESSING.dump_python(profile.preprocessing, mode="json"),
        "joint": _JOINT.dump_python(profile.joint, mode="json"),
        "query_radii": _RADII.dump_python(profile.query_radii, mode="json"),
        "provenance": _PROVENANCE.dump_python(profile.provenance, mode="json"),
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def load(directory: Path) -> Profile:
    """Read a profile back, verified: format, hashes, and that every scoring detector has its benign scores.

    Raises:
        ProfileError: a file is missing, damaged, or of another format.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        packed = (directory / ARRAYS).read_bytes()
    except FileNotFoundError as exc:
        raise ProfileError(
            f"{directory} holds no profile: {Path(exc.filename).name} is missing; name the folder of one, or {_REMAKE}"
        ) from exc
    except NotADirectoryError as exc:
        raise ProfileError(f"{directory} is no folder: name the one that `guard calibrate` wrote") from exc
    except OSError as exc:
        raise ProfileError(f"{exc.filename} can't be read ({exc.strerror}); check its permissions") from exc
    except ValueError as exc:
        raise ProfileError(f"{directory / MANIFEST} can't be read ({exc}); {_REMAKE}") from exc
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ProfileError(f"{directory / MANIFEST} is not a profile of format {FORMAT}; {_REMAKE}")
    if manifest.get("arrays_sha256") != _sha256(packed):
        raise ProfileError(f"{directory / ARRAYS} is not the file that {MANIFEST} was written with; {_REMAKE}")
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as packed_arrays:
            arrays = dict(packed_arrays)
        detectors = _DETECTORS.validate_python(manifest["detectors"])
        replica = _REPLICA.validate_python(manifest["replica"])
        with_files: list[NetworkSpec | ReducedReplica] = [
            *(each for each in detectors if isinstance(each, NetworkSpec)),
            *([replica] if replica else []),
        ]
        profile = Profile(
            model=_INFO.validate_python(manifest["model"]),
            detectors=detectors,
            provenance=_PROVENANCE.validate_python(manifest["provenance"]),
            files={spec.file: _file(directory, spec) for spec in with_files},
            replica=replica,
            conditions=_CONDITIONS.validate_python(manifest["conditions"]),
            preprocessing=_PREPROCESSING.validate_python(manifest.get("preprocessing")),
            joint=_JOINT.validate_python(manifest.get("joint")),
            query_radii=_RADII.validate_python(manifest.get("query_radii")),
            reference=_benign(arrays, "reference"),
            calibration=_benign(arrays, "calibration"),
            sample_hashes=arrays["sample_hashes"],
            known_attacks=arrays.get("known_attacks"),
            canaries=Canaries(arrays["canary_inputs"], arrays["canary_logits"], _encoded(arrays)),
        )
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
        raise ProfileError(f"{directory} is damaged ({exc}); {_REMAKE}") from exc
    _check(profile, directory)
    return profile


def _check(profile: Profile, directory: Path) -> None:
    """Raises ProfileError unless the parts of a profile are of one kind."""
    if profile.known_attacks is not None and profile.known_attacks.shape[1:] != profile.model.shape:
        raise ProfileError(f"{directory} holds known attacks of another shape than the model's; {_REMAKE}")
    for part in (profile.reference, profile.calibration):
        if set(part.scores) != set(profile.scoring):
            raise ProfileError(f"{directory} lacks benign scores of some detectors; {_REMAKE}")
        if profile.joint is not None and not set(profile.joint.weights) <= set(profile.scoring):
            raise ProfileError(f"{directory} weighs detectors that it does not have; {_REMAKE}")
        others = [*part.scores.values(), *([] if part.groups is None else [part.groups])]
        if any(each.shape != part.labels.shape for each in others):
            raise ProfileError(f"{directory} holds more or fewer benign scores than labels; {_REMAKE}")


def _encoded(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[bytes, ...]:
    if "canary_images" not in arrays:
        return ()
    ends = np.cumsum(arrays["canary_sizes"])[:-1]
    return tuple(part.tobytes() for part in np.split(arrays["canary_images"], ends))


def _benign(arrays: Mapping[str, npt.NDArray[Any]], part: str) -> BenignScores:
    prefix = f"{part}_score_"
    scores = {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}
    return BenignScores(labels=arrays[f"{part}_labels"], scores=scores, groups=arrays.get(f"{part}_groups"))


def _file(directory: Path, spec: NetworkSpec | ReducedReplica) -> bytes:
    if Path(spec.file).name != spec.file:
        raise ProfileError(f"{directory / MANIFEST} names a file outside the profile: {spec.file!r}; {_REMAKE}")
    try:
        content = (directory / spec.file).read_bytes()
    except OSError as exc:
        raise ProfileError(f"{directory / spec.file} can't be read ({exc}); {_REMAKE}") from exc
    if _sha256(content) != spec.sha256:
        raise ProfileError(f"{directory / spec.file} was changed after calibration; {_REMAKE}")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
