"""The dashboards for Grafana: what is committed is what the code makes, and every expression parses.

There is no Grafana here to show them in.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import dashboards
from deploy.grafana.parts import DOUBLINGS, EXPECTED
from guard.observe.families import P_VALUE_BUCKETS
from tests.deploy.rules import RULES, needs_promtool
from tests.deploy.test_names import queries

FILES = dashboards.files()


@pytest.mark.parametrize("name", sorted(FILES))
def test_committed_as_made(name: str) -> None:
    """`make dashboards` would change nothing."""
    assert (dashboards.FOLDER / name).read_text() == FILES[name]
    assert sorted(path.name for path in dashboards.FOLDER.glob("*.json")) == sorted(FILES)


@needs_promtool
@pytest.mark.parametrize("name", sorted(FILES))
def test_every_expression_parses(name: str, tmp_path: Path) -> None:
    """Prometheus takes each of them, with Grafana's variables filled in."""
    found = [
        query.replace("$__rate_interval", "1m").replace("$model", ".+") for query in queries(json.loads(FILES[name]))
    ]
    assert len(found) > 10
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(found)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    words = ["promtool", "check", "rules", "--lint=none", str(tmp_path / "rules.yml")]
    result = subprocess.run(words, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", sorted(FILES))
def test_what_a_person_needs(name: str) -> None:
    """Each panel has a title, a line on what it shows, a query, a place of its own, and the chosen data source."""
    board: dict[str, Any] = json.loads(FILES[name])
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels) > 8
    for panel in panels:
        assert panel["description"]
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
    places = [(p["gridPos"]["y"], p["gridPos"]["x"], p["gridPos"]["w"]) for p in panels]
    assert all(a[0] != b[0] or a[1] + a[2] <= b[1] for a, b in pairwise(sorted(places)))
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "model"]
    assert re.fullmatch(r"guard-[a-z]+", board["uid"])


@needs_promtool
@pytest.mark.parametrize(("tail", "doublings"), [(0.05, 0.0), (0.4, 3.0), (0.8, 4.0), (0.0, -3.0)])
def test_the_heat_map_has_the_colour_of_its_expected_line_on_clean_traffic(
    tail: float, doublings: float, tmp_path: Path
) -> None:
    """Where p-values are spread evenly every band is at 0, as is the line; with eight times the tail, three doublings.

    All of it is shown: what lies at 0 or below too, which Grafana leaves out by itself.
    """
    shown = panel("p-values over what is expected")
    assert shown["type"] == "heatmap"
    options = shown["options"]
    assert (options["color"]["min"], options["color"]["max"]) == (-DOUBLINGS, DOUBLINGS)
    line, *bands = shown["targets"]
    assert (line["legendFormat"], line["expr"]) == (EXPECTED, "vector(0)")
    assert [band["legendFormat"] for band in bands] == [
        "0 to 0.01",
        "0.01 to 0.05",
        "0.05 to 0.1",
        "0.1 to 0.25",
        "0.25 to 0.5",
        "0.5 to 0.75",
        "0.75 to 0.9",
        "0.9 to 1",
    ]
    rest = round(math.log2((1 - tail) / 0.95), 3)
    wanted = [doublings if number < 2 else rest for number, _ in enumerate(bands)]
    assert options["filterValues"]["le"] < min(wanted)
    looks = [(band["expr"], "{}", value) for band, value in zip(bands, wanted, strict=True)]
    holds(looks, p_values(tail), ".+", tmp_path)


@needs_promtool
@pytest.mark.parametrize("tail", [0.05, 0.4], ids=["clean", "attack"])
def test_areas_of_p_values_end_on_the_lines_that_are_expected(tail: float, tmp_path: Path) -> None:
    """In one picture: where p-values are spread evenly each area ends on its dashed line, and above it in an attack.

    Each area goes down to the next, and the lowest to nothing.
    """
    shown = panel("p-values")
    named = {target["legendFormat"]: target["expr"] for target in shown["targets"]}
    areas, lines = ({k: v for k, v in named.items() if k.startswith(kind)} for kind in ("up to", EXPECTED))
    bounds = [float(name.split()[-1]) for name in areas]
    assert bounds == sorted(bounds)
    assert bounds[-1] == 1
    assert lines == {f"{EXPECTED} {bound:g}": f"vector({bound:g})" for bound in bounds[:-1]}
    looks = {
        override["matcher"]["options"]: {each["id"]: each["value"] for each in override["properties"]}
        for override in shown["fieldConfig"]["overrides"]
    }
    assert [looks[name].get("custom.fillBelowTo") for name in areas] == [None, *list(areas)[:-1]]
    assert looks[f"/^{EXPECTED} /"]["custom.lineStyle"] == {"fill": "dash"}
    wanted = [round(below(bound, tail), 3) for bound in bounds]
    assert (wanted == bounds) == (tail == 0.05)
    holds(
        [(expr, "{}", value) for expr, value in zip(areas.values(), wanted, strict=True)],
        p_values(tail),
        ".+",
        tmp_path,
    )


@needs_promtool
@pytest.mark.parametrize(("samples", "doublings"), [(100, -0.014), (360, -0.267), (6000, 0.0)])
def test_the_heat_map_is_level_for_small_profiles_too(samples: int, doublings: float, tmp_path: Path) -> None:
    """The least p-value of n samples is 1 / (n + 1); steps of that size are not taken for a lack of small ones."""
    lowest = panel("p-values over what is expected")["targets"][1]["expr"]
    series = p_values(0.05)
    share = math.floor(0.01 * (samples + 1)) / (samples + 1)
    key = next(key for key in series if key.endswith("le='0.01'}"))
    holds([(lowest, "{}", doublings)], series | {key: f"0+{1000 * share:g}x30"}, ".+", tmp_path)


@needs_promtool
def test_the_heat_map_is_empty_where_inputs_are_too_few(tmp_path: Path) -> None:
    """Six inputs in a quarter of an hour say something of a band of a quarter, and nothing of one of a hundredth."""
    _, lowest, *_, quarter, _, _ = (target["expr"] for target in panel("p-values over what is expected")["targets"])
    few = p_values(0.05, each_minute=0.4)
    holds([(f"count({lowest}) or vector(-1)", "{}", -1.0), (quarter, "{}", 0.0)], few, ".+", tmp_path)


def panel(title: str) -> dict[str, Any]:
    """A panel of the dashboard of attacks."""
    (found,) = (each for each in json.loads(FILES["guard-attacks.json"])["panels"] if each["title"] == title)
    return dict(found)


def below(bound: float, tail: float) -> float:
    """What share is up to a bound, where the p-values up to 0.05 and those above are spread evenly."""
    return tail / 0.05 * bound if bound <= 0.05 else 1 - (1 - bound) / 0.95 * (1 - tail)


def p_values(tail: float, each_minute: float = 1000) -> dict[str, str]:
    """So many p-values a minute, a share of them up to 0.05."""
    name, labels = "guard_detector_pvalue_ratio", "model='digits',detector='combined'"
    series = {f"{name}_bucket{{{labels},le='{bound}'}}": below(bound, tail) for bound in P_VALUE_BUCKETS}
    series[f"{name}_count{{{labels}}}"] = 1.0
    return {key: f"0+{each_minute * share:g}x30" for key, share in series.items()}


def holds(looks: list[tuple[str, str, float]], series: dict[str, str], model: str, folder: Path) -> None:
    """Each expression, for the models that are chosen, has after twenty minutes one line: these labels, this value."""
    tests = {
        "rule_files": [str(RULES)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": key, "values": values} for key, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f"round({expression.replace('$model', model)}, 0.001)",
                        "eval_time": "20m",
                        "exp_samples": [{"labels": labels, "value": value}],
                    }
                    for expression, labels, value in looks
                ],
            }
        ],
    }
    (folder / "tests.yml").write_text(yaml.safe_dump(tests))
    words = ["promtool", "test", "rules", str(folder / "tests.yml")]
    result = subprocess.run(words, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def expressions(title: str) -> list[str]:
    """What a panel of the dashboard for the service shows."""
    (found,) = (panel for panel in json.loads(FILES["guard-service.json"])["panels"] if panel["title"] == title)
    return list(queries(found))


@needs_promtool
def test_one_replica_whose_self_test_fails_is_seen(tmp_path: Path) -> None:
    """The number is that of the replica that found known attacks longest ago."""
    name = "guard_selftest_last_success_timestamp_seconds"
    series = {
        f"{name}{{model='digits',instance='a'}}": "0+60x30",
        f"{name}{{model='digits',instance='b'}}": "0+60x5 300x25",
    }
    (expression,) = expressions("Self-test")
    holds([(expression, '{model="digits"}', 900)], series, "digits", tmp_path)


@needs_promtool
@pytest.mark.parametrize("model", ["(digits@1|digits@2)", "digits@2"])
def test_a_bypass_is_seen_where_models_are_named_by_version(model: str, tmp_path: Path) -> None:
    """Beside what Guard asked for is what Triton ran of the same model, whose version Triton's counts don't name."""
    guard, triton = "guard_upstream_inferences_total", "nv_inference_request_success"
    series = {
        f"{guard}{{model='digits@1',sender='call'}}": "0+60x30",
        f"{guard}{{model='digits@2',sender='call'}}": "0+120x30",
        f"{guard}{{model='cars',sender='call'}}": "0+60x30",
        f"{triton}{{model='digits',version='1'}}": "0+300x30",
        f"{triton}{{model='cars',version='1'}}": "0+60x30",
    }
    asked, ran = expressions("Guard against Triton")
    holds([(asked, '{model="digits"}', 1800), (ran, '{model="digits"}', 3000)], series, model, tmp_path)
