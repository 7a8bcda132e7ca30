"""What `guard evaluate` writes: numbers that add up, and a page that shows them and needs nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from guard import stats
from guard.offline.evaluate.command import evaluate_to
from guard.offline.evaluate.craft import Crafter, Victim
from guard.offline.evaluate.kept import Kept
from guard.offline.evaluate.measure import craft_all, measure
from guard.offline.evaluate.request import Request
from guard.offline.evaluate.screening import screen
from guard.offline.evaluate.suite import SUITE, find
from guard.offline.evaluate.target import Answers
from guard.offline.progress import quiet
from tests.offline.evaluate.conftest import ATTACKS, IMAGES, Report
from tests.support import digits
from tests.support.profiles import digits_backend, digits_profile

_VOID = {"meta", "img", "br", "link", "input", "path", "use", "rect"}


class Page(HTMLParser):
    """Text, tags and attributes of a page; complains of tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close what was opened last."""
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep it."""
        self.text += data


def counts(value: Any) -> list[dict[str, Any]]:
    """Each count in the results, wherever it is."""
    if isinstance(value, dict):
        own = [value] if {"count", "of"} <= value.keys() else []
        return own + [found for each in value.values() for found in counts(each)]
    return [found for each in value for found in counts(each)] if isinstance(value, list) else []


def test_counts_and_intervals(report: Report) -> None:
    """Each count is of so many, and its share and exact interval are those of the count."""
    found = counts(report.results)
    assert len(found) > 100
    for each in found:
        assert 0 <= each["count"] <= each["of"]
        assert each["share"] == (each["count"] / each["of"] if each["of"] else None)
        assert each["interval_95"] == list(stats.clopper_pearson_interval(each["count"], each["of"]))


def test_rows_add_up(report: Report) -> None:
    """Caught are successes, fewer at a lower rate; laundered are those that still fool; accusers accuse the caught."""
    rows = report.results["attacks"]
    assert len(rows) == sum(attack.name in ATTACKS for attack in SUITE)
    assert {row["attack"] for row in rows} == set(ATTACKS)
    for row in rows:
        assert row["failed"] is None
        assert row["succeeded"]["of"] == IMAGES
        caught = [row["caught"][rate] for rate in ("0.05", "0.01")]
        assert {each["of"] for each in caught} == {row["succeeded"]["count"]}
        assert caught[1]["count"] <= caught[0]["count"]
        assert sum(row["accusers"].values()) == caught[0]["count"]
        for each in row["laundered"]:
            assert each["still"]["of"] == row["succeeded"]["count"]
            assert {cell["of"] for cell in each["caught"].values()} == {each["still"]["count"]}
        assert (row["median_l2"] is None) == (row["succeeded"]["count"] == 0)


def test_attacks_are_real(report: Report) -> None:
    """The stronger an attack, the more it fools; it stays within its bound, and asks where that is all it can do."""
    rows = {f"{row['attack']}, {row['setting']}": row for row in report.results["attacks"]}
    fooled = [rows[f"FGSM, L-inf {level}"]["succeeded"]["count"] for level in ("1/255", "0.1", "0.3")]
    assert fooled == sorted(fooled)
    assert fooled[-1] == IMAGES
    assert rows["FGSM, L-inf 0.3"]["median_linf"] == pytest.approx(0.3, abs=1 / 255)
    assert rows["DeepFool, L2"]["succeeded"]["count"] == IMAGES  # those that rounding brought back were moved on
    assert rows["Square, L-inf 0.3"]["answers_an_image"] > 1
    assert rows["FGSM, L-inf 0.3"]["answers_an_image"] == 0
    assert report.results["white_box"] == {"exact": True, "agreement": 1.0}


def test_worst_case(report: Report) -> None:
    """The worst case is no milder than any attack, grows with the bound, and Guard never makes it worse."""
    worst = {case["attacks"]: case for case in report.results["worst_case"]}
    everything = worst["all attacks"]
    assert everything["undefended"]["of"] == IMAGES
    assert everything["undefended"]["count"] >= max(row["succeeded"]["count"] for row in report.results["attacks"])
    for case in worst.values():
        assert case["guarded"]["0.05"]["count"] <= case["guarded"]["0.01"]["count"] <= case["undefended"]["count"]
    for row in report.results["attacks"]:
        missed = row["succeeded"]["count"] - row["caught"]["0.05"]["count"]
        assert everything["guarded"]["0.05"]["count"] >= missed
    bounded = [case["undefended"]["count"] for case in worst.values() if case["linf"] is not None]
    assert len(bounded) == 8
    assert bounded == sorted(bounded)


def test_honest_images(report: Report) -> None:
    """All samples are screened for the false-positive rate, and each of six kinds of drift has five severities."""
    assert report.results["false_positives"]["0.05"]["of"] == 200
    assert report.results["accuracy"]["share"] > 0.9
    kinds = [cell["kind"] for cell in report.results["drift"]]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ("JPEG", "blur", "resize", "brightness", "contrast", "noise"), 5
    )
    assert {cell["flagged"]["0.05"]["of"] for cell in report.results["drift"]} == {IMAGES}


def test_how_many_drift(tmp_path: Path) -> None:
    """More than are attacked, but for a quick look, or one at a few attacks."""
    whole = Request(profile=tmp_path, model=tmp_path, data=tmp_path, out=tmp_path)
    asked = [whole, replace(whole, images=30), replace(whole, quick=True), replace(whole, attacks=("FGSM",))]
    assert [(each.attacked, each.drifting) for each in asked] == [(200, 1000), (30, 150), (40, 40), (200, 200)]


def test_the_page_is_whole(report: Report) -> None:
    """Well formed, with each row, plot, picture and fact in it; nothing is loaded from elsewhere; no number is NaN."""
    page = Page(report.page)
    assert page.open == []
    for row in report.results["attacks"]:
        assert f"{row['attack']}, {row['setting']}" in page.text
    for cell in report.results["drift"]:
        assert f"{cell['kind']} {cell['setting']}" in page.text
    for heading in ("In short", "Laundered attacks", "Honest images under drift", "Examples", "How this was measured"):
        assert heading in report.page
    assert [tag for tag, _ in page.tags].count("svg") == 3
    pictures = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) >= 3 * 4
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert not [attrs for _, attrs in page.tags if re.match("https?:", attrs.get("src") or attrs.get("href") or "")]
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower())
    assert "guard evaluate " in page.text
    for fact in ("seed", "versions", "adversarial-robustness-toolbox", report.results["facts"]["model"]):
        assert fact in page.text


def test_ids_are_unique(report: Report) -> None:
    """The plots are drawn apart and stand on one page: none uses another's marks."""
    ids = [attrs["id"] for _, attrs in Page(report.page).tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_without_labels(files: Path, tmp_path: Path) -> None:
    """Where no true labels are given, success is another label than the model's own, and the page says so."""
    request = Request(
        profile=files / "profile",
        model=files / "digits.onnx",
        data=files / "images.npz",
        out=tmp_path / "out",
        attacks=("FGSM",),
        rates=(0.1,),
        images=4,
    )
    evaluation = evaluate_to(request, Console(quiet=True))
    assert not evaluation.labelled
    assert evaluation.accuracy.share == 1
    assert evaluation.rates == (0.1,)
    assert "No true labels were given" in (tmp_path / "out" / "report.html").read_text()


def test_an_attack_that_fails(files: Path, tmp_path: Path) -> None:
    """What the toolbox refuses is a row that says why, and the other rows stand."""
    refused = replace(find("SimBA, pixels, step 0.3"), parameters={"attack": "nothing"})
    backend = digits_backend()
    answers = Answers(backend)
    images, labels = digits.load_data().test
    seen, truth = answers.view.view(images[:3]), labels[:3]
    victim = Victim(answers, digits.trained_network(), True, "ab", digits.trained_network)
    crafter = Crafter(victim, 0, Kept(tmp_path))
    attacks = (refused, find("FGSM, L-inf 0.3"))
    made = craft_all(crafter, attacks, seen, truth, quiet())
    assert [each.attempts for each in made] == [0, 3]
    with screen(digits_profile(), backend, (0.05,), Kept(tmp_path), 0) as screening:
        rows = [
            measure(each, seen, truth, screen=screening, answers=answers, seed=0, reporter=quiet()).row for each in made
        ]
    assert "ValueError" in (rows[0].failed or "")
    assert rows[0].caught[0.05].of == 0
    assert rows[1].failed is None


def test_what_is_printed(report: Report) -> None:
    """The terminal shows each row, what the rates were, and where the report is."""
    for row in report.results["attacks"]:
        assert f"{row['attack']}, {row['setting']}" in report.output
    assert "crafting FGSM, L-inf 0.3: 6" in report.output
    assert "At 0.05: " in report.output
    assert f"The report is {report.folder / 'report.html'}" in report.output
