"""What the documents say, held against the code: commands, the policy, metrics, layers, links."""

from __future__ import annotations

import asyncio
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample
from typer.core import TyperGroup

from guard.app import Sidecar
from guard.cli import app
from guard.config_file import load_settings
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.observe.metrics import Metrics
from guard.offline.calibrate import Options, calibrate
from guard.profile import store
from guard.values import Mode
from tests.support.digits import DigitsData

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
METRICS = ROOT / "docs" / "metrics.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_MARKS = {"guard_verdict", "guard_id", "guard_items", "guard_approximate", "guard_screen_only", "guard_action"}


def code_lines(document: Path) -> list[str]:
    """Lines of indented and fenced code blocks, without indentation and comments, and code within sentences."""
    text = document.read_text()
    fence = re.compile(r"^```.*?\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
    blocks = [line for block in fence.findall(text) for line in block.splitlines()]
    blocks += re.findall(r"^ {4}(\S.*)$", fence.sub("", text), flags=re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", fence.sub("", text))]
    return [re.sub(r"\s+#.*", "", line) for line in (*blocks, *spans)]


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
    metrics = Metrics()
    metrics.watch_model(
        model="digits",
        detectors=("smoothing",),
        mode=Mode.FLAG,
        fingerprint="abc",
        false_positive_rate=0.05,
        calibration_samples=400,
        created="2025-01-02T03:04:05Z",
    )
    metrics.policy_in_force("1a2b")
    metrics.watch_queue("digits", lambda: 0)
    metrics.watch_memory("digits", lambda: 0)
    metrics.watch_sharing("digits", lambda: True)
    for hop, ca in (("listen", "client_ca_file"), ("upstream", "ca_file")):
        ends = {f"{hop}.tls.{name}": lambda: 0.0 for name in ("certificate_file", ca)}
        metrics.watch_credentials(f"{hop}.tls", lambda: False, ends)
    metrics.watch_credentials("upstream.restricted_protocol", lambda: False, {})
    metrics.watch_drift("digits", suspected=lambda: None, evidence=lambda _scope: 0.0)
    metrics.watch_selftest("digits", lambda: 0.0)
    return metrics.registry


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
    while isinstance(command, TyperGroup):
        assert words, f"{document}: {line!r} names no command"
        assert words[0] in command.commands, f"{document}: there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    if words:  # else a sentence names the command, and it need not be complete
        command.make_context(line, words)


def test_commands_are_found() -> None:
    """The test above is not blind: README's own commands are among those that it checks."""
    lines = {line for document, line in lines_starting("guard") if document == "README.md"}
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
        options |= {name for parameter in command.params for name in parameter.opts}
    named = {line.split()[0] for document in DOCUMENTS for line in code_lines(document) if line.startswith("--")}
    assert {"--mutation", "--bounds"} <= named
    assert named <= options


@pytest.mark.parametrize(("document", "line"), lines_starting("make"))
def test_each_make_target_exists(document: str, line: str) -> None:
    """Each `make ...` in a document names a target of the Makefile."""
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {word for word in shlex.split(line)[1:] if "=" not in word}
    assert named <= targets, document


def test_the_policy_in_readme_works(tmp_path: Path, digits_onnx: Path, digits_data: DigitsData) -> None:
    """README's policy serves as it stands, beside a model and a profile of as few samples as README asks for."""
    (policy,) = re.findall(r"^```yaml\n(.*?)^```$", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "policy.yaml").write_text(policy)
    (tmp_path / "model.onnx").write_bytes(digits_onnx.read_bytes())
    info = inspect_onnx(digits_onnx, name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8))
    (least,) = re.findall(r"benign inputs [^:]*: (\d+)\s+or\s+more", README.read_text())
    samples = digits_data.calibration[0][: int(least)]
    profile = calibrate(OnnxBackend(digits_onnx.read_bytes(), info), samples, Options(network=False))
    store.save(profile, tmp_path / "profile")
    settings = load_settings(tmp_path / "policy.yaml")
    assert settings.models["digits"].false_positive_rate == 0.01
    asyncio.run(Sidecar(settings).stop())  # it is whole; it need not listen


def test_metrics_are_documented(registry: CollectorRegistry) -> None:
    """docs/metrics.md lists what a running registry exports: each name, type and set of labels."""
    documented = {quoted(name)[0]: (kind, set(quoted(labels))) for name, kind, labels, _ in table(METRICS, "metric")}
    assert documented == {name: (kind, labels_of(samples)) for name, (kind, samples) in exported(registry).items()}


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
