"""What the documents say, held against the code: commands, the policy, metrics, layers, links."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
import textwrap
import tomllib
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample
from typer.core import TyperGroup

from docs import detection_table, metrics_table
from guard.app import Sidecar
from guard.cli import app
from guard.config_file import load_settings
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.offline.calibrate import calibrate
from guard.offline.options import Options
from guard.offline.source import read_preprocessing
from guard.profile import store
from guard.profile.spec import ImagePreprocessing
from tests.support.digits import DigitsData

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
START = ROOT / "docs" / "start.md"
YOUR_MODEL = ROOT / "docs" / "your-model.md"
METRICS = ROOT / "docs" / "metrics.md"
THREATS = ROOT / "docs" / "threat-model.md"
SCHEMA = json.loads((ROOT / "deploy" / "policy.schema.json").read_text())
DOCUMENTS = [
    *(README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "examples" / "README.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_MARKS = {
    "guard_verdict",
    "guard_id",
    "guard_items",
    "guard_items_omitted",
    "guard_approximate",
    "guard_screen_only",
    "guard_action",
}


def code_lines(document: Path) -> list[str]:
    """Lines of indented and fenced code blocks, without indentation and comments, and code within sentences."""
    text = document.read_text()
    fence = re.compile(r"^```.*?\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
    blocks = [line for block in fence.findall(text) for line in block.splitlines()]
    blocks += re.findall(r"^ {4}(\S.*)$", fence.sub("", text), flags=re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", fence.sub("", text))]
    return [re.sub(r"\s+#.*", "", line) for line in (*blocks, *spans)]


def policies(document: Path) -> list[dict[str, object]]:
    """Blocks of code that are policies, or parts of one: mappings with one of a policy's sections."""
    text = document.read_text()
    fence = re.compile(r"^```.*?\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
    blocks = fence.findall(text) + re.findall(r"(?:^ {4}.*\n(?:[ \t]*\n)*)+", fence.sub("", text), flags=re.MULTILINE)
    found = []
    for block in blocks:
        try:
            content = yaml.safe_load(textwrap.dedent(block))
        except yaml.YAMLError:
            continue  # another language
        if isinstance(content, dict) and content.keys() & SCHEMA["properties"].keys():
            found.append(content)
    return found


def lines_starting(word: str) -> list[tuple[str, str]]:
    """(document, line) for each line of code that starts with a word."""
    return [(doc.name, line) for doc in DOCUMENTS for line in code_lines(doc) if line.startswith(f"{word} ")]


def table(document: Path, heading: str) -> list[list[str]]:
    """The cells of each row of every table whose header row starts with `heading`."""
    rows, inside = [], False
    for line in document.read_text().splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.startswith(f"| {heading} |"):
            inside = True
        elif inside and not line.startswith("| ---"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def quoted(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    """Metrics as they are when Guard has started with one model, every series at 0."""
    return metrics_table.live()


def exported(registry: CollectorRegistry) -> dict[str, tuple[str, list[Sample]]]:
    """Type and samples of each metric, by the name that a query uses."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, family.samples)
        for family in registry.collect()
    }


def labels_of(samples: list[Sample]) -> set[str]:
    """Names of labels, without the bucket's bound."""
    return {label for sample in samples for label in sample.labels} - {"le"}


@pytest.mark.parametrize(("document", "line"), lines_starting("guard"))
def test_each_command_parses(document: str, line: str) -> None:
    """Each `guard ...` in a document is a command that exists, with options and values that it takes."""
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    if words and words[0].startswith("--"):  # not tried, for it might be done
        assert words[0] in {name for each in command.params for name in each.opts}, f"{document}: {line!r}"
        return
    while isinstance(command, TyperGroup):
        assert words, f"{document}: {line!r} names no command"
        assert words[0] in command.commands, f"{document}: there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    if words:  # else a sentence names the command, and it need not be complete
        command.make_context(line, words)


def test_commands_are_found() -> None:
    """The test above is not blind: the five-minute start's own commands are among those that it checks."""
    lines = {line for document, line in lines_starting("guard") if document == START.name}
    assert {
        "guard calibrate --model model.onnx --data benign.npz --out profile/",
        "guard check-config policy.yaml",
        "guard serve --embedded model.onnx",
        "guard check-config --schema",
    } <= lines


def test_each_option_exists() -> None:
    """Each `--option` in a sentence is one of a command."""
    pending, options = [typer.main.get_command(app)], set()
    while pending:
        command = pending.pop()
        pending += command.commands.values() if isinstance(command, TyperGroup) else ()
        options |= {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    named = {line.split()[0] for document in DOCUMENTS for line in code_lines(document) if line.startswith("--")}
    assert {"--mutation", "--bounds"} <= named
    assert named <= options


@pytest.mark.parametrize(("document", "line"), lines_starting("make"))
def test_each_make_target_exists(document: str, line: str) -> None:
    """Each `make ...` in a document names a target of the Makefile."""
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {word for word in shlex.split(line)[1:] if "=" not in word}
    assert named <= targets, document


def test_the_policy_of_the_start_works(tmp_path: Path, digits_onnx: Path, digits_data: DigitsData) -> None:
    """The policy of the five-minute start serves as it stands, with a profile of as few samples as it asks for."""
    (policy,) = re.findall(r"^```yaml\n(.*?)^```$", START.read_text(), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "policy.yaml").write_text(policy)
    (tmp_path / "model.onnx").write_bytes(digits_onnx.read_bytes())
    info = inspect_onnx(digits_onnx, name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8))
    (least,) = re.findall(r"benign inputs [^:]*: (\d+)\s+or\s+more", START.read_text())
    samples = digits_data.calibration[0][: int(least)]
    profile = calibrate(OnnxBackend(digits_onnx.read_bytes(), info), samples, Options(network=False))
    store.save(profile, tmp_path / "profile")
    settings = load_settings(tmp_path / "policy.yaml")
    assert settings.models["digits"].false_positive_rate == 0.01
    asyncio.run(Sidecar(settings).stop())  # it is whole; it need not listen


def test_the_preprocessing_of_the_own_model_works(tmp_path: Path) -> None:
    """What the page on one's own model says of encoded images is read as it stands."""
    (block,) = re.findall(r"^```\n(input: .*?)^```$", YOUR_MODEL.read_text(), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "preprocessing.yaml").write_text(block)
    read = read_preprocessing(tmp_path / "preprocessing.yaml")
    assert isinstance(read, ImagePreprocessing)
    assert (read.input, read.size_px, read.colour) == ("IMAGE", (224, 224), "rgb")


def test_metrics_are_documented() -> None:
    """`make metrics-table` would change nothing in docs/metrics.md: its table is what a running registry has."""
    assert metrics_table.page(METRICS.read_text()) == METRICS.read_text()


def test_what_was_measured_is_told() -> None:
    """`make detection-table` would change nothing in docs/threat-model.md: its table is that of the results."""
    assert detection_table.page(THREATS.read_text()) == THREATS.read_text()
    with pytest.raises(ValueError, match="lacks the lines"):
        detection_table.page("no marks")


def test_a_table_that_is_not_current_is_mended() -> None:
    """A fact that is wrong is the code's again, a metric that is gone goes, and what a person wrote stays."""
    text = METRICS.read_text()
    wrong = text.replace("| `guard_queued_items` | gauge |", "| `guard_queued_items` | counter |")
    wrong = wrong.replace(metrics_table.END, f"| `guard_gone_total` | counter | | | | Gone. | |\n{metrics_table.END}")
    assert wrong != text
    assert metrics_table.page(wrong) == text


def test_histograms_convert(registry: CollectorRegistry) -> None:
    """Bounds of each histogram ascend and end in +Inf, so Prometheus can make native ones of them."""
    histograms = [family for family in registry.collect() if family.type == "histogram"]
    assert {"guard_overhead_seconds", "guard_detector_pvalue_ratio"} <= {family.name for family in histograms}
    for family in histograms:
        series: dict[frozenset[tuple[str, str]], list[Sample]] = {}
        for sample in family.samples:
            series.setdefault(frozenset({**sample.labels, "le": ""}.items()), []).append(sample)
        for samples in series.values():
            bounds = [float(sample.labels["le"]) for sample in samples if sample.name.endswith("_bucket")]
            assert bounds == sorted(set(bounds))
            assert bounds[-1] == math.inf
            assert {sample.name.removeprefix(family.name) for sample in samples} == {"_bucket", "_count", "_sum"}


@pytest.mark.parametrize(
    ("label", "metric", "values"),
    # The policy and the profile, not Guard, say which models and detectors there are.
    [row for row in table(METRICS, "label") if row[0] not in {"`model`", "`detector`"}],
)
def test_label_values_are_documented(registry: CollectorRegistry, label: str, metric: str, values: str) -> None:
    """docs/metrics.md lists each closed set of label values in full, and where it gives examples, they exist."""
    samples = exported(registry)[quoted(metric)[0]][1]
    known, listed = {sample.labels[quoted(label)[0]] for sample in samples}, set(quoted(values))
    examples = "for example" in values or "..." in values
    assert listed
    assert listed <= known if examples else listed == known


def test_metrics_in_sentences_exist(registry: CollectorRegistry) -> None:
    """Each guard_... in a document is a metric, with the labels that it has, or one of the marks on answers."""
    metrics = exported(registry)
    for document in DOCUMENTS:
        for name, labels in re.findall(r"(?<![\w.])(guard_[a-z_]+)(?:\{([a-z,]+)\})?", document.read_text()):
            base = re.sub(r"_(bucket|count)$", "", name)
            assert base in metrics or name in _MARKS, f"{document.name}: {name}"
            if labels:
                assert set(labels.split(",")) == labels_of(metrics[base][1]), f"{document.name}: {name}"


def test_layers_are_documented() -> None:
    """docs/architecture.md has the layers that import-linter holds, top to bottom."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer.split(" | ") for layer in contracts[0]["layers"]]
    assert [quoted(row[0]) for row in table(ROOT / "docs" / "architecture.md", "layer")] == layers


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Each relative link names a file that is there, and each anchor a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in anchors, target


WITH_POLICIES = [document for document in DOCUMENTS if policies(document)]


def test_documents_with_policies() -> None:
    """They are found, in fences and indented: or the next test would hold nothing to the schema."""
    assert {"start.md", "audit.md", "console.md", "network.md", "tracing.md"} <= {each.name for each in WITH_POLICIES}


@pytest.mark.parametrize("document", WITH_POLICIES, ids=lambda each: each.name)
def test_policies_are_as_the_schema_has_them(document: Path) -> None:
    """Each policy in a document, or part of one, has settings that there are, with values that they may have."""
    for policy in policies(document):
        jsonschema.validate(policy, SCHEMA)
