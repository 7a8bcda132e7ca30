"""Inputs that are kept: encrypted, for a time, and within bounds."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from guard.audit.captures import Captures, TooLarge, texts_of, unseal
from guard.audit.records import records
from guard.errors import DataError
from guard.recording import Captures as Settings
from guard.recording import Outcome, Sink
from guard.values import InferRequest, WireTensor
from tests.audit.parts import IMAGE, decision, on_disk, rejected, settings, sighting, writing

KEY, OTHER = b"k" * 32, b"o" * 32


def request(image: np.ndarray = IMAGE) -> InferRequest:
    """A request with one tensor."""
    return InferRequest("digits", "", "", (WireTensor("input", "FP32", image.shape, raw=memoryview(image.tobytes())),))


def captures(folder: Path, now: list[float], *, max_bytes: int = 10_000) -> Captures:
    """Captures at a time that is set by hand."""
    return Captures(folder, ttl_s=100.0, max_bytes=max_bytes, now_s=lambda: now[0])


def calls_of(work: Callable[[], object]) -> int:
    """How many functions it calls, of Python and of C."""
    counted = Counter[str]()

    def count(_frame: FrameType, event: str, _about: object) -> None:
        counted[event] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counted["call"] + counted["c_call"]


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
    path.mkdir()  # there, and not to be read: as without rights, which root always has
    with pytest.raises(DataError, match=r"\(Is a directory\): look as the user that Guard runs as"):
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
    assert again.nbytes == on_disk(tmp_path / "captures")


def test_inputs_expire_sooner(tmp_path: Path) -> None:
    """Inputs that were to be kept for longer go when those of now do, and one of now does not go for them."""
    now = [1e9]
    old, _ = Captures(tmp_path, ttl_s=1e6, max_bytes=100_000, now_s=lambda: now[0]).keep("old", request(), KEY)
    again = captures(tmp_path, now, max_bytes=100_000)
    now[0] += 50
    new, _ = again.keep("new", request(), KEY)
    now[0] += 51
    again.expire()
    assert not (tmp_path / old).exists()
    assert (tmp_path / new).exists()
    now[0] += 50
    again.expire()
    assert not (tmp_path / new).exists()


def test_inputs_are_bounded(tmp_path: Path) -> None:
    """All inputs take no more of the disk than they may: the oldest go first, and one that is too large is not kept.

    A disk gives each file whole blocks, which are many times what is in a small one.
    """
    now = [1e9]
    kept = captures(tmp_path, now, max_bytes=100_000)
    references = []
    for index in range(40):
        now[0] += 1
        references.append(kept.keep(f"d{index}", request(), KEY)[0])
        files = sum(path.stat().st_blocks * 512 for path in (tmp_path / "captures").iterdir())
        assert files <= 100_000
        assert files <= on_disk(tmp_path / "captures") <= kept.nbytes
    left = [reference for reference in references if (tmp_path / reference).exists()]
    assert left == references[-len(left) :]
    assert 5 < len(left) < 40
    again = captures(tmp_path, now, max_bytes=100_000)
    assert again.nbytes == kept.nbytes
    with pytest.raises(TooLarge):
        kept.keep("large", request(np.zeros(10_000, np.float32)), KEY)


def test_a_lower_bound(tmp_path: Path) -> None:
    """Where inputs may take less than before, the oldest go at once, not only when another one is kept."""
    now = [1e9]
    kept = captures(tmp_path, now, max_bytes=400_000)
    references = [kept.keep(f"d{index}", request(), KEY)[0] for index in range(40)]
    again = captures(tmp_path, now, max_bytes=100_000)
    again.expire()
    left = [reference for reference in references if (tmp_path / reference).exists()]
    assert 5 < len(left) < 40
    assert on_disk(tmp_path / "captures") <= again.nbytes < 110_000  # with the folder itself


def test_a_forgotten_input_is_not_counted(tmp_path: Path) -> None:
    """An input whose record was not written takes nothing, and others have its room."""
    now = [1e9]
    kept = captures(tmp_path, now, max_bytes=100_000)
    first, _ = kept.keep("first", request(), KEY)
    before = kept.nbytes
    second, _ = kept.keep("second", request(), KEY)
    kept.forget(second)
    assert kept.nbytes == before
    assert not (tmp_path / second).exists()
    now[0] += 101
    kept.expire()
    assert not (tmp_path / first).exists()
    assert kept.nbytes == on_disk(tmp_path / "captures")


def test_what_keeping_takes_does_not_grow(tmp_path: Path) -> None:
    """Keeping an input, and tidying up, take as many steps among 2,000 as among none, with room and without."""
    now = [1e9]

    def steps(kept: Captures) -> int:
        now[0] += 1
        return calls_of(lambda: (kept.keep(f"n{now[0]:.0f}", request(), KEY), kept.expire()))

    (tmp_path / "alone").mkdir()
    captures(tmp_path / "alone", now, max_bytes=1 << 30).keep("first", request(), KEY)  # what is imported once
    folder = tmp_path / "many" / "captures"
    folder.mkdir(parents=True)
    for index in range(2000):
        (folder / f"{1_000_000_050 + index // 50}-d{index}.sealed").write_bytes(b"x")
    alone = steps(captures(tmp_path / "alone", now, max_bytes=1 << 30))
    with_room = steps(captures(tmp_path / "many", now, max_bytes=1 << 30))
    full = steps(captures(tmp_path / "many", now, max_bytes=2000 * 4096))
    assert with_room <= alone + 10
    assert full <= alone + 100  # for the few that go


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
