"""The process that fuzzes, for libFuzzer ends the one that it runs in. Its arguments are libFuzzer's own.

Source: atheris (coverage-guided fuzzing of Python, on libFuzzer).
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from pathlib import Path
from random import Random

import atheris

_INSTRUMENTED = ["guard.wire", "guard.decode", "guard.datatypes", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"]
with atheris.instrument_imports(include=_INSTRUMENTED):
    from benchmarks.fuzz import mutate, pictures, properties
    from benchmarks.fuzz.seeds import FOLDER

_NOTED_EVERY = 1000
_OUTCOMES: Counter[str] = Counter()


def one(case: bytes) -> None:
    """Check one case."""
    _OUTCOMES[properties.check(case)] += 1
    if _OUTCOMES.total() % _NOTED_EVERY == 0:  # now and then, because libFuzzer leaves without a farewell
        Path(os.environ[FOLDER], "outcomes.json").write_text(json.dumps(_OUTCOMES))


def mutator(case: bytes, max_size: int, seed: int) -> bytes:
    """A changed case: by what it is made of, or by libFuzzer, which knows what the code compares it with."""
    rng = Random(seed)  # noqa: S311 - a fuzzer can be repeated
    if not case or rng.random() < 0.5:  # noqa: PLR2004 - a half
        return bytes(atheris.Mutate(case, max_size))
    parser = properties.PARSERS[case[0] % len(properties.PARSERS)]
    if parser in {properties.message, properties.answer}:
        changed = case[:1] + mutate.mutated_message(case[1:], rng)
    elif parser is properties.rest:
        behind = int.from_bytes(case[1:3], "little")
        cut = max(3, len(case) - behind)
        changed = case[:3] + mutate.mutated_json(case[3:cut], rng) + case[cut:]
    elif parser is properties.image:
        changed = case[:2] + pictures.mutated_picture(case[2:], rng)
    else:
        changed = mutate.mutated_bytes(case, rng)
    return changed[:max_size]


def main() -> None:
    """Fuzz as the arguments say."""
    again = Path(os.environ[FOLDER], "again")  # to merge, libFuzzer starts what it takes for itself
    again.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m benchmarks.fuzz.fuzzer "$@"\n')
    again.chmod(0o700)
    atheris.Setup([str(again), *sys.argv[1:]], one, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
