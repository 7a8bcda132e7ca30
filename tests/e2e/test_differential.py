"""The short form of `make fuzz-differential`: what Triton executes is what Guard screens, however it is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from random import Random

import pytest

from benchmarks.fuzz import differential
from benchmarks.fuzz.differential import Differential
from benchmarks.fuzz.frames import GRPC, LENGTH, REST, STREAM, Case, Frame, framed
from benchmarks.fuzz.sides import Keeper, Sides, both
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.values import InferRequest

CASES = 500
BARE = Frame("/v2/models/bare_FP32/versions/1/infer", ((LENGTH, "0"), ("Content-Encoding", "gzip")), "gzip")
REQUEST = b"\n\x06report*\x11\n\x05UINT8\x12\x05UINT8\x1a\x01\x02:\x02\x01\x02"


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """Both ways to a Triton that notes what it is asked."""
    with both(tmp_path_factory.mktemp("differential")) as made:
        yield made


def test_no_difference(sides: Sides) -> None:
    """Hundreds of mutated requests are executed as they were screened, or refused; of each there are many."""
    fuzzer = Differential(sides, seed=11)
    fuzzer.seeds()
    for _ in range(CASES):
        fuzzer.step()
    assert fuzzer.findings == {}
    assert fuzzer.outcomes["same"] > CASES / 10
    assert fuzzer.outcomes["same, oddly sent"] > CASES / 20
    assert sum(number for outcome, number in fuzzer.outcomes.items() if "refused by guard" in outcome) > CASES / 50


def test_main(sides: Sides, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command goes on for as long as is said, writes what came of it, and ends with 0 where nothing was found."""
    monkeypatch.setattr(differential, "both", lambda _: nullcontext(sides))
    monkeypatch.setattr(sys, "argv", ["differential", "--minutes", "0.02", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        differential.main()
    found = json.loads((tmp_path / "fuzz-differential.json").read_text())
    assert (ended.value.code, found["findings"]) == (0, {})
    assert found["outcomes"]["same"] > 0


def test_odd_frames_can_be_repeated() -> None:
    """What is drawn around a request follows from the seed alone, and is of many kinds."""

    def drawn(seed: int) -> list[Case]:
        rng = Random(seed)  # noqa: S311 - a fuzzer can be repeated
        return [framed(Case(way, REQUEST), rng) for way in (GRPC, REST) for _ in range(100)]

    cases = drawn(3)
    assert drawn(3) == cases != drawn(4)
    assert len(set(cases)) > len(cases) / 2
    assert len({case.packed() for case in cases}) > len(cases) / 10


@pytest.mark.parametrize(
    "case",
    [
        Case(GRPC, REQUEST),
        Case(STREAM, REQUEST),
        Case(GRPC, REQUEST, frame=Frame(compression="gzip")),
        Case(STREAM, REQUEST, frame=Frame(compression="deflate")),
        Case(REST, bytes(8), frame=BARE),
    ],
)
def test_a_difference_is_found(sides: Sides, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """A screener that looks at something else than is executed is found out."""
    plain = Keeper.screen

    async def mistaken(self: Keeper, request: InferRequest, **others: object) -> object:
        return await plain(self, InferRequest(request.model_name, "", "other", request.inputs), **others)

    monkeypatch.setattr(Keeper, "screen", mistaken)
    fuzzer = Differential(sides, seed=0)
    fuzzer.one(case)
    assert list(fuzzer.findings) == [f"executed: id by {case.way}"]


@pytest.mark.parametrize("name", ["report\0", "report\0x"])
def test_a_name_that_is_cut_short(sides: Sides, name: str) -> None:
    """Triton answers for the name before the NUL; Guard refuses it."""
    message = ModelInferRequest.FromString(REQUEST)
    message.model_name = name
    assert sides.direct.ask(Case(GRPC, message.SerializeToString()))
    assert [report["model"][0] for report in sides.executed()] == ["report"]
    assert not sides.through.ask(Case(GRPC, message.SerializeToString()))
    assert sides.executed() == []
