"""Inputs that are kept: encrypted, for a time, and within bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guard.audit.captures import Captures, TooLarge, texts_of, unseal
from guard.audit.records import records
from guard.errors import DataError
from guard.recording import Captures as Settings
from guard.recording import Outcome, Sink
from guard.values import InferRequest, WireTensor
from tests.audit.parts import IMAGE, decision, rejected, settings, sighting, writing

KEY, OTHER = b"k" * 32, b"o" * 32


def request(image: np.ndarray = IMAGE) -> InferRequest:
    """A request with one tensor."""
    return InferRequest("digits", "", "", (WireTensor("input", "FP32", image.shape, raw=memoryview(image.tobytes())),))


def captures(folder: Path, now: list[float], *, max_bytes: int = 10_000) -> Captures:
    """Captures at a time that is set by hand."""
    return Captures(folder, ttl_s=100.0, max_bytes=max_bytes, now_s=lambda: now[0])


def test_an_input_comes_back(tmp_path: Path) -> None:
    """An input is read with its key, whichever of several that is, and is not there in plain."""
    reference, expires_s = captures(tmp_path, [1e9]).keep("d1", request(), KEY)
    assert expires_s == 1e9 + 100
    path = tmp_path / reference
    (content,) = unseal("d1", path, [OTHER, KEY])
    assert np.array_equal(content.view(np.float32), IMAGE.ravel())
    assert IMAGE.tobytes()[:32] not in path.read_bytes()
    assert path.stat().st_mode & 0o007 == 0


def test_texts_come_back(tmp_path: Path) -> None:
    """Elements of a BYTES tensor come back one by one, however they came."""
    typed = WireTensor("image", "BYTES", (2,), typed=np.fromiter([b"one", b""], np.object_, 2))
    reference, _ = captures(tmp_path, [1e9]).keep("d1", InferRequest("m", "", "", (typed,)), KEY)
    (content,) = unseal("d1", tmp_path / reference, [KEY])
    assert texts_of(content, "BYTES") == [b"one", b""]


def test_another_key_or_decision(tmp_path: Path) -> None:
    """An input is not read with another key, as another decision's, or once it was changed."""
    reference, _ = captures(tmp_path, [1e9]).keep("d1", request(), KEY)
    path = tmp_path / reference
    with pytest.raises(DataError, match="give the file of that key with --key"):
        unseal("d1", path, [OTHER])
    with pytest.raises(DataError, match="tampered with, or belongs to another decision than d2"):
        unseal("d2", path, [KEY])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="tampered with"):
        unseal("d1", path, [KEY])
    path.unlink()
    with pytest.raises(DataError, match="the input may have expired"):
        unseal("d1", path, [KEY])


def test_inputs_expire(tmp_path: Path) -> None:
    """An input goes when its time is over, also one that a Guard before this one kept."""
    now = [1e9]
    reference, _ = captures(tmp_path, now).keep("d1", request(), KEY)
    now[0] += 99
    again = captures(tmp_path, now)
    again.expire()
    assert (tmp_path / reference).exists()
    now[0] += 2
    again.expire()
    assert not (tmp_path / reference).exists()
    assert again.nbytes == 0


def test_inputs_are_bounded(tmp_path: Path) -> None:
    """All inputs together take no more than they may: the oldest go first, and one that is too large is not kept."""
    now = [1e9]
    kept = captures(tmp_path, now)
    references = []
    for index in range(40):
        now[0] += 1
        references.append(kept.keep(f"d{index}", request(), KEY)[0])
        assert kept.nbytes <= 10_000
    left = [reference for reference in references if (tmp_path / reference).exists()]
    assert left == references[-len(left) :]
    assert 5 < len(left) < 40
    with pytest.raises(TooLarge):
        kept.keep("large", request(np.zeros(1000, np.float32)), KEY)


def test_which_inputs_are_kept(tmp_path: Path) -> None:
    """Inputs of what was rejected or flagged are kept, and the record says where; others are not, nor by default."""
    with writing(settings(tmp_path / "log", captured=True)) as (log, counted):
        log.record(sighting(rejected("bad")))
        log.record(sighting(decision(uid="good")))
    bad, good = records(tmp_path / "log")
    assert (tmp_path / "log" / bad["dataref"]).exists()
    assert bad["dataclassification"] == "confidential"
    assert bad["expirytime"] > bad["time"]
    assert "dataref" not in good
    assert counted.of[Sink.CAPTURES, Outcome.WRITTEN] == 1
    with writing(settings(tmp_path / "plain")) as (log, _):
        log.record(sighting(rejected()))
    assert "dataref" not in next(records(tmp_path / "plain"))
    assert not (tmp_path / "plain" / "captures").exists()


def test_too_large_an_input(tmp_path: Path) -> None:
    """An input that is too large is counted, and its record written without it."""
    given = settings(tmp_path / "log", captured=True)
    kept = Settings(key_file=given.captures.key_file, max_bytes=64 * 1024)
    with writing(given.model_copy(update={"captures": kept})) as (log, counted):
        log.record(sighting(rejected(), np.zeros((1, 1, 128, 128), np.float32)))
    assert counted.of[Sink.CAPTURES, Outcome.DROPPED] == 1
    assert "dataref" not in next(records(tmp_path / "log"))
