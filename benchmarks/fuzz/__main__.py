"""Fuzz Guard's parsers, guided by coverage: `python -m benchmarks.fuzz`, or `make fuzz`.

It begins with tests/wire/corpus. A case that breaks a property ends the run, and its file is named; `--add` puts it
into the corpus. `--keep` adds what reaches new code to the corpus, the smallest of each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.engine.table import machine
from benchmarks.fuzz import seeds

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
MAX_CASE_BYTES = 4096
_MEMORY = "-rss_limit_mb=8192"  # it counts the memory of who started it; what a case takes, properties look at
_STUCK_S = 10
_DONE = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)/")


def fuzz(number: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run so many cases, from the corpus on; what they found that reaches new code goes into `folder`.

    Raises:
        RuntimeError: a case breaks a property, or takes too long; the message ends in the case's file.
    """
    known, new, outcomes = folder / "known", folder / "new", folder / "outcomes.json"
    new.mkdir()
    known.mkdir()
    for place, case in enumerate((*seeds.cases(), *seeds.kept())):
        (known / f"{place}").write_bytes(case)
    started_s = time.monotonic()
    said = _libfuzzer(folder, f"-runs={number}", f"-seed={seed}", str(new), str(known))
    done = _DONE.search(said)
    if done is None:
        raise RuntimeError(f"the fuzzer did not end as it should:\n{said[-4000:]}")
    run, edges, features, kept = map(int, done.groups())
    return {
        "cases": run,
        "seed": seed,
        "seconds": round(time.monotonic() - started_s, 1),
        "broken": 0,
        "edges covered": edges,
        "features covered": features,
        "corpus": kept,
        "outcomes": dict(sorted(json.loads(outcomes.read_text()).items())) if outcomes.exists() else {},
    }


def keep(folder: Path) -> int:
    """Add what a run left in its folder to the corpus, if it reaches new code. Returns how many cases that were."""
    merged, before = folder / "merged", set(seeds.kept())
    merged.mkdir()
    for place, case in enumerate(sorted(before)):
        (merged / f"{place}").write_bytes(case)
    _libfuzzer(folder, "-merge=1", str(merged), str(folder / "new"), str(folder / "known"))
    after = {file.read_bytes() for file in merged.iterdir()}
    seeds.keep(after)
    return len(after - before)


def _libfuzzer(folder: Path, *arguments: str) -> str:
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz.fuzzer",
        f"-max_len={MAX_CASE_BYTES}",
        f"-timeout={_STUCK_S}",
        _MEMORY,
    ]
    found = subprocess.run(  # noqa: S603 - no part of it comes from elsewhere
        [*command, f"-artifact_prefix={folder}/", *arguments],
        cwd=ROOT,
        env=os.environ | {seeds.FOLDER: str(folder)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if found.returncode:
        said = found.stdout + found.stderr
        raise RuntimeError(f"a case breaks a property:\n{said[-4000:]}")
    return found.stdout + found.stderr


def main() -> None:
    """Fuzz, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000, help="how many to run")
    parser.add_argument("--seed", type=int, default=1, help="a run can be repeated with it")
    parser.add_argument("--keep", action="store_true", help="add cases that reach new code to tests/wire/corpus")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for fuzz.json")
    parser.add_argument("--add", type=Path, nargs="+", default=[], help="only add these cases to tests/wire/corpus")
    options = parser.parse_args()
    if options.add:
        seeds.keep([*seeds.kept(), *(file.read_bytes() for file in options.add)])
        return
    folder = Path(tempfile.mkdtemp(prefix="guard-fuzz-"))
    try:
        report = fuzz(options.cases, options.seed, folder)
    except RuntimeError as error:
        sys.exit(str(error))  # the folder stays, with the case
    if options.keep:
        report["added to the corpus"] = keep(folder)
    shutil.rmtree(folder)
    options.results.mkdir(parents=True, exist_ok=True)
    about = machine("benchmarks.fuzz")
    (options.results / "fuzz.json").write_text(json.dumps({"about": about} | report, indent=1) + "\n")
    print(json.dumps(report, indent=1))  # noqa: T201 - for the person who waits


if __name__ == "__main__":
    main()
