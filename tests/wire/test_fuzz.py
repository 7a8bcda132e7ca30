"""The parsers under mutated input: the kept corpus, new cases from it, and what costs most memory."""

from __future__ import annotations

import ctypes
import gc
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from benchmarks.fuzz import seeds
from benchmarks.fuzz.__main__ import fuzz
from benchmarks.fuzz.mutate import fields_of, mutated_bytes, mutated_json, mutated_message, written
from benchmarks.fuzz.properties import PARSERS, Broken, check
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.wire.message import ParsedRequest
from guard.wire.scan import length_delimited
from tests.wire.messages import VALID

CASES = 20_000
SIZE = 1 << 18


def test_corpus() -> None:
    """Every case that once reached new code, or broke something, still keeps the properties; all parsers have some."""
    cases = seeds.kept()
    assert len(cases) >= 100
    outcomes = Counter(map(check, cases))
    assert {outcome.split()[0] for outcome in outcomes} == {parser.__name__ for parser in PARSERS}


def test_mutated() -> None:
    """Mutations of what is valid are taken or refused, never more."""
    rng, outcomes = Random(0), Counter[str]()  # noqa: S311 - a test can be repeated
    messages = [request.SerializeToString() for request in seeds.requests()]
    for _ in range(4000):
        message, (text, behind) = rng.choice(messages), rng.choice(seeds.documents())
        for _ in range(rng.randrange(1, 4)):
            message, text = mutated_message(message, rng), mutated_json(text, rng)
        outcomes[check(b"\0" + message)] += 1
        outcomes[check(b"\1" + len(behind).to_bytes(2, "little") + text + behind)] += 1
    assert min(outcomes[f"{name} {what}"] for name in ("message", "rest") for what in ("taken", "refused")) > 100


def test_guided_by_coverage(tmp_path: Path) -> None:
    """The fuzzer of `make fuzz` runs, from the corpus on, and finds nothing."""
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    report = fuzz(CASES, seed=1, folder=tmp_path)
    assert report["cases"] >= CASES
    assert report["edges covered"] > 300
    assert sum(report["outcomes"].values()) >= CASES - 1000


def test_a_planted_defect_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that leaves with something else than was screened breaks a property."""
    plain = ParsedRequest.canonical

    def forgetful(parsed: ParsedRequest) -> bytes:
        return plain(parsed).replace(b"UINT8", b"INT08")

    check(b"\0" + VALID)
    monkeypatch.setattr(ParsedRequest, "canonical", forgetful)
    with pytest.raises(Broken):
        check(b"\0" + VALID)


def test_mutations_can_be_undone() -> None:
    """Taking a message apart and writing it is the identity, so that a mutation is the only change."""
    for request in seeds.requests():
        message = request.SerializeToString()
        fields = fields_of(message)
        assert fields is not None
        assert written(fields) == message
    assert mutated_bytes(VALID, Random(3)) != VALID  # noqa: S311 - as above


def tensor(*, datatype: str, shape: int, number: int, contents: bytes) -> bytes:
    """A request with one input of so many typed values, whose serialised contents are given."""
    made = ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=[shape]).SerializeToString()
    made += field(5, field(number, contents) if number else contents)
    return b"\0" + field(1, b"digits") + field(5, made)


def field(number: int, contents: bytes) -> bytes:
    """A length-delimited field."""
    return length_delimited(number, len(contents)) + contents


def rest(text: bytes) -> bytes:
    """A body of REST without anything behind its JSON."""
    return b"\1\0\0" + text


def of_values(values: bytes) -> bytes:
    """A body with one input that has these values."""
    return rest(b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [%s1]}]}' % values)


EXPENSIVE = {
    "inputs": b"\0" + b"\x2a\x00" * 4096,
    "raw contents": b"\0" + b"\x3a\x00" * 4096,
    "dimensions": b"\0" + field(5, field(3, bytes(SIZE))),
    "parameters": b"\0" + field(5, b"".join(field(4, field(1, b"%05d" % n)) for n in range(SIZE // 9))),
    "truths": tensor(datatype="BOOL", shape=SIZE, number=1, contents=bytes(SIZE)),
    "bytes of integers": tensor(datatype="INT8", shape=SIZE, number=2, contents=bytes(SIZE)),
    "integers": tensor(datatype="INT64", shape=SIZE, number=3, contents=bytes(SIZE)),
    "strings": tensor(datatype="BYTES", shape=SIZE // 2, number=0, contents=b"\x42\x00" * (SIZE // 2)),
    "unknown fields": b"\0" + field(5, b"\xa0\x06\x01" * (SIZE // 3)),
    "numbers of JSON": of_values(b"1," * (SIZE // 2)),
    "lists of JSON": of_values(b"[]," * (SIZE // 3)),
    "depth of JSON": of_values(b"[" * SIZE),
    "objects of JSON": of_values(b"{}," * 16000),
    "names of JSON": rest(b'{%s"a":1}' % b"".join(b'"%x":0,' % n for n in range(SIZE // 9))),
    "strings of JSON": of_values(b'"a",' * (SIZE // 4)),
    "one string of JSON": rest(b'{"id": "' + "\N{PILE OF POO}".encode() * (SIZE // 4) + b'"}'),
}


@pytest.mark.parametrize("case", EXPENSIVE)
def test_memory(case: str) -> None:
    """The shortest forms of many things take less than a hundred times their size, taken or refused."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    check(EXPENSIVE[case])
