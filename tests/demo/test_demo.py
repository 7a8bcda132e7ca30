"""One real run of the whole demo, as a user starts it."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from guard.demo.attacks import ATTACKS
from guard.profile import store
from tests.support.command import Running, guard
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.timeout(600)  # it takes two minutes, and more where others use the machine

OUTCOMES = ("forwarded", "flagged", "rejected")


@dataclass(frozen=True)
class Run:
    """What the demo left: what it says to people, its exit code, results and folder, and what its metrics port said."""

    output: str
    exit_code: int
    results: dict[str, Any]
    folder: Path
    metrics: str
    ports: list[int]

    @property
    def attacks(self) -> list[dict[str, Any]]:
        """The rows of attacks."""
        return [row for row in self.results["traffic"] if row["attack"]]

    @property
    def benign(self) -> dict[str, Any]:
        """The row of benign digits."""
        (row,) = (row for row in self.results["traffic"] if not row["attack"])
        return row


def strictly(text: str) -> Any:
    """Parse JSON as strict parsers do, which know no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo, kept running at its end until its metrics were read, then interrupted."""
    folder = tmp_path_factory.mktemp("demo")
    arguments = ("demo", "--json", "--dir", "made/here", "--keep-running")
    with Running(*arguments, cwd=folder) as running:
        running.wait_for("^}$")  # the end of the results, which alone are on standard output
        while "Still running" not in running.log:
            threading.Event().wait(0.1)
        url = re.search(r"http://127\.0\.0\.1:\d+/metrics", running.log)
        assert url is not None
        with urllib.request.urlopen(url[0], timeout=PATIENCE_S) as answer:  # noqa: S310 - a constant scheme
            metrics = answer.read().decode()
        exit_code = running.end(signal.SIGINT, within_s=PATIENCE_S)
        return Run(
            output=running.log,
            exit_code=exit_code,
            results=strictly(running.output),
            folder=folder / "made/here",
            metrics=metrics,
            ports=[int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", running.log)],
        )


def test_a_row_for_each_kind_of_traffic(demo: Run) -> None:
    """There is a row for benign digits and for each setting of each attack, and every attack made something to send."""
    assert len(demo.attacks) == len(ATTACKS)
    assert {row["kind"].partition(",")[0] for row in demo.attacks} == {"FGSM", "PGD", "C&W", "DeepFool", "JSMA"}
    assert all(0 < row["requests"] <= row["attempts"] for row in demo.attacks)
    assert demo.benign["requests"] == 397
    assert demo.results["model_accuracy"] > 0.97


def test_rows_add_up(demo: Run) -> None:
    """Every request was forwarded, flagged or rejected, what was caught is what was not forwarded, at some cost."""
    for row in demo.results["traffic"]:
        assert sum(row[outcome] for outcome in OUTCOMES) == row["requests"]
        assert row["caught"] == (row["flagged"] + row["rejected"]) / row["requests"]
        assert row["caught_interval_95"][0] <= row["caught"] <= row["caught_interval_95"][1]
        assert row["mean_evaluations"] >= 1
        assert row["added_latency_p50_s"] <= row["added_latency_p99_s"]


def test_false_positive_rate_holds(demo: Run) -> None:
    """The measured rate's interval includes the rate asked for or lies below it."""
    rate = demo.results["false_positive_rate"]
    assert rate["asked"] == 0.05
    assert rate["measured"] == demo.benign["caught"]
    assert rate["interval_95"][0] <= rate["asked"]
    assert "held-out digits: consistent with it" in " ".join(demo.output.split())


def test_attacks_are_caught_or_the_misses_admitted(demo: Run) -> None:
    """Of each attack at each strength nine in ten are caught, give or take chance; a row of which fewer are says so."""
    admitted = re.search(r"Caught less than 90%: ((.|\n)*?)\.\n", demo.output)
    named = " ".join(admitted[1].split()) if admitted else ""
    for row in demo.attacks:
        assert row["caught_interval_95"][1] >= 0.9
        assert row["reaches_target"] is (row["caught"] >= 0.9)
        assert (row["kind"] in named) is not row["reaches_target"]
    assert demo.output.count("BELOW 90%") == sum(not row["reaches_target"] for row in demo.attacks)


def test_stable_digits_are_cheap(demo: Run) -> None:
    """A stable digit costs at most 24 evaluations for sensitivity and certificate together, and most are stable."""
    stable = demo.results["stable_evaluations"]
    assert (stable["promised"], stable["requests"]) == (24, demo.benign["requests"])
    assert stable["stable"] > 0.75 * stable["requests"]
    assert 8 <= stable["maximum"] <= 24
    assert stable["kept"] is True
    said = " ".join(demo.output.split())
    assert f"{stable['stable']} of {stable['requests']} held-out digits are stable" in said
    assert f"cost at most {stable['maximum']:.0f} evaluations for each of these; 24 were promised: kept." in said


def test_table(demo: Run) -> None:
    """The table shows each row of the results, whole, on a terminal of 80 columns."""
    lines = demo.output.splitlines()
    for row in demo.results["traffic"]:
        outcomes = " / ".join(str(row[outcome]) for outcome in OUTCOMES)
        (line,) = (line for line in lines if line.lstrip().startswith(row["kind"]) and outcomes in line)
        assert f"{row['caught']:.1%}" in line
        assert f" {row['requests']} " in line
    assert "…" not in demo.output


def test_metrics(demo: Run) -> None:
    """The metrics that it prints are those that its admin port serves, and count the rows of the table."""
    served = {
        (each.name, frozenset(each.labels.items())): each.value
        for family in text_string_to_metric_families(demo.metrics)
        for each in family.samples
    }
    printed = {
        (name, frozenset(re.findall(r'(\w+)="(.*?)"', labels))): float(value)
        for name, labels, value in re.findall(r"^  (guard_\w+){(.*)} (\d+)$", demo.output, re.MULTILINE)
    }
    assert {name for name, _ in printed} >= {"guard_requests_total", "guard_verdicts_total", "guard_items_total"}
    assert printed.items() <= served.items()
    rejected = sum(row["rejected"] for row in demo.results["traffic"])
    labels = {"model": "digits", "protocol": "grpc", "decision": "reject"}
    counted = served["guard_requests_total", frozenset(labels.items())]
    assert counted - rejected in {0, 1}  # the first call, which connects, is in no row


def test_it_stops_cleanly(demo: Run) -> None:
    """Ctrl-C ends it with exit code 0, without a warning or a traceback, and no port is left open."""
    assert demo.exit_code == 0
    assert not re.search(r"Warning|Error|Traceback", demo.output)
    assert demo.output.endswith("Stopping.\n")
    assert len(set(demo.ports)) == 3
    for port in demo.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_what_it_names_is_there(demo: Run) -> None:
    """The profile and the picture that it names exist, and the profile command that it suggests works."""
    assert store.load(demo.folder / "profile").model.name == "digits"
    assert (demo.folder / "profile" / "scores.png").is_file()
    for command in re.findall(r"^  guard (profile show .*)$", demo.output, re.MULTILINE):
        shown = guard(*command.split(), cwd=demo.folder.parents[1])
        assert shown.returncode == 0
        assert "sensitivity_gaussian" in shown.stdout
