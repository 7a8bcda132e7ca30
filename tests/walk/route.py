"""The way through the documents: every line that they have a reader type, in an order in which a reader might.

What is not typed here is in `ELSEWHERE` with the test that does it, in one of the lists behind that, or in `NOT_HERE`
with what it would take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

RULES: Final = "deploy/prometheus/guard.rules.yml"
AUDIT: Final = "/var/lib/guard/audit"
DECISION: Final = "4f1c2d3e4b5a69788796a5b4c3d2e1f0"
HEAD: Final = "5bf626280766280dc5bcdabe16993f749543f1a3a8451dbcc037eff1a570739a"
"""What the page on the audit log calls the log's folder, a decision and the last hash."""


@dataclass(frozen=True, slots=True)
class Step:
    """A line that ends by itself, with `code`. `says` is a pattern of what it prints, and `leaves` a file it makes.

    What others have to get ready for is typed again until it says what is expected, if `again`. `needs` is a program
    that may not be installed, on the path or in the folder.
    """

    line: str
    says: str = ""
    leaves: str = ""
    again: bool = False
    needs: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Serving:
    """A line that goes on until Ctrl-C: once it says something, others are typed meanwhile.

    It then ends with 0, but for those that are `killed` by it.
    """

    line: str
    says: str
    meanwhile: tuple[Step | Serving | File, ...] = ()
    killed: bool = False
    needs: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """A file that the reader writes: the block of a document that begins so."""

    path: str
    document: str
    begins: str


_SERVES = r"Guard serves gRPC on port 8011, .*metrics and health on port 9011"
_EMBEDDED = "guard serve --embedded guard-demo/digits.onnx --profile guard-demo/profile"

_ANSWERED = r"clean\W+40\W+(3\d|40)\W+\d+\W+attacked\W+40\W+\d+\W+[1-4]\d\b"
"""Most clean samples were, and ten or more of the attacked ones were rejected."""

_ATTACK = Serving(
    "python -m examples.replay guard-demo/attacks.npz",
    says=r"'adversarial': \d+",
    meanwhile=(Serving("python -m examples.replay guard-demo/clean.npz", says=r"'clean': \d+", killed=True),),
    killed=True,
)
_ALERTMANAGER = Serving(
    "prometheus-alertmanager --config.file=deploy/prometheus/alertmanager.yml --storage.path=guard-demo/alerts "
    "--cluster.listen-address=",
    says="Listening on",
    meanwhile=(
        _ATTACK,
        Step("amtool alert --alertmanager.url=http://localhost:9093", says="Alertname", needs="amtool"),
    ),
    needs="prometheus-alertmanager",
)
_PROMETHEUS = Serving(
    "prometheus --config.file=deploy/prometheus/prometheus.yml --storage.tsdb.path=guard-demo/series",
    says="Server is ready to receive web requests",
    meanwhile=(_ALERTMANAGER,),
    needs="prometheus",
)

_INSTALLS = r"(?s)\A(?!.*does not provide the extra).*Would install guard-sidecar-"
"""What pip says where it only looks. It warns of an extra that is not there, and goes on without."""

ROUTE: Final[tuple[Step | Serving | File, ...]] = (
    Step("make help", says="make demo +Guard a small model"),
    Step("make env", says=r"\.venv is ready"),
    Step("pre-commit install", says="pre-commit installed", leaves=".git/hooks/pre-commit"),
    *(Step(f"pip install '.[{extra}]'", says=_INSTALLS) for extra in ("client", "cpu", "otel")),
    Step("make constraints", leaves="constraints.txt"),
    Step("make image BASE=...", says="BASE=... doesn't say which bytes to build on: name the image by its", code=2),
    Step("make image BASE=... PUSH=registry.example/guard", says="BASE=... doesn't say which bytes", code=2),
    Step("make schema"),
    Step("make proto"),
    Step("make metrics-table"),
    Step("make detection-table"),
    Step("make dashboards"),
    Step("make kubernetes"),
    Step("guard --install-completion", says="completion installed in"),
    Step("guard --show-completion", says="_guard_completion"),
    Step(
        "guard calibrate --upstream localhost:8001 --model-name digits --data benign.npz --out profile/",
        says="The profile is in profile",
    ),
    Step(
        "guard calibrate --model model.onnx --data benign.npz --out profile/",
        says="The profile is in profile",
        leaves="profile/scores.png",
    ),
    Step("guard profile show profile/", says="false-positive rate"),
    File("policy.yaml", "docs/start.md", "upstream:"),
    Step("guard check-config policy.yaml", says=r"policy\.yaml is fine"),
    Step("guard check-config --schema", says='"title": "Guard policy"'),
    Serving(
        "guard serve --config policy.yaml",
        says=r"Guard serves gRPC on port 8011, HTTP on port 8010, metrics and health on port 9011",
        meanwhile=(
            Step("curl -s localhost:9011/readyz", says=r"\Aready", again=True),
            Step("curl -s localhost:9011/metrics", says="guard_requests_total"),
            Step("curl -s localhost:9011/metrics | grep audit", says="guard_audit_disk_bytes"),
            Step(
                "curl -s localhost:9011/metrics | grep -E 'selftest|detector_errors|build_info|policy_info'",
                says="guard_policy_info",
            ),
            Step("curl -s localhost:9011/policy", says="digits"),
            Step("guard doctor policy.yaml", says="0 problem"),
        ),
    ),
    Serving("guard serve --embedded model.onnx", says="Nothing is screened without a profile"),
    Serving("guard serve --embedded model.onnx --profile profile/", says=_SERVES),
    Serving(
        _EMBEDDED,
        says=_SERVES,
        meanwhile=(Step("mkdir -p guard-demo/series guard-demo/alerts", leaves="guard-demo/series"), _PROMETHEUS),
    ),
    Step("head -c 24 /dev/urandom | base64 > console-token", leaves="console-token"),
    Serving(f"{_EMBEDDED} --console", says="the console at http://127.0.0.1:9011/console"),
    Step("guard audit pseudonym ipv4:10.0.0.7 --key names.key", says=r"^\w+ \(key \w+\)$"),
    Step(f"guard audit verify {AUDIT}", says="is as it was written"),
    Step(f"guard audit verify {AUDIT} --head {HEAD}", says="is as it was written"),
    Step(f"guard audit show {DECISION} {AUDIT}", says="adversarial: reject in enforce mode, denied"),
    Step(
        f"guard audit show {DECISION} {AUDIT} --key captures.key --out input.png",
        says=r"drawn in input\.png",
        leaves="input.png",
    ),
    Step("head -c 32 /dev/urandom > names.key", leaves="names.key"),
    Step("head -c 32 /dev/urandom > captures.key", leaves="captures.key"),
    Step(f"guard audit export {AUDIT} --out audit.parquet", says=r"3 records are in audit\.parquet"),
    Step("guard audit show ID FOLDER", says="adversarial: reject in enforce mode, denied"),
    Step("guard audit export FOLDER --out found.parquet", says=r"3 records are in found\.parquet"),
    Serving(
        "make example-inprocess",
        says=r"running on http://127\.0\.0\.1:8080",
        meanwhile=(
            Step(
                'python -c \'import numpy, json; print(json.dumps({"pixels": '
                'numpy.load("guard-example/samples.npz")["attacked"][0, 0].tolist()}))\' > attacked.json',
                leaves="attacked.json",
            ),
            Step(
                "curl -s -d @attacked.json localhost:8080/classify",
                says=r'^{"error": "the input was rejected", "verdict": "adversarial", "id": "\w{32}"}$',
            ),
        ),
        killed=True,
    ),
    Step("make example-triton", says=_ANSWERED, needs=".venv-triton/bin/triton"),
    Step("make example-kserve", says=_ANSWERED, needs=".venv-kserve/bin/python"),
    Step("mkdir my-guard && cp deploy/kubernetes/overlays/cpu/policy.yaml my-guard/", leaves="my-guard/policy.yaml"),
    File("my-guard/kustomization.yaml", "docs/deploying.md", "apiVersion: kustomize"),
    Step("kubectl kustomize my-guard | grep 'name: guard-link'", says="name: guard-link", needs="kubectl"),
    Step(f"sed -i 's#runbook_url: docs/#runbook_url: https://git.example/guard/blob/main/docs/#' {RULES}"),
)

ELSEWHERE: Final = {
    "make demo": "tests/demo/test_demo.py",
    "make docs": "tests/test_site.py",
    "make fuzz": "tests/wire/test_fuzz.py",
    "make fuzz-differential MINUTES=60": "tests/e2e/test_differential.py",
    "make chaos": "tests/chaos/test_rows.py",
    "make soak DATA=folder": "tests/benchmarks/test_soak.py",
    "make bench-audit": "tests/benchmarks/test_audit.py",
    "make bench-universal DATA=folder": "tests/benchmarks/test_universal.py",
    "make bench-queries DATA=folder": "tests/benchmarks/test_queries.py",
    "make bench-queries-live": "tests/benchmarks/test_queries_live.py",
    "make bench-queries-live-mnist DATA=folder": "tests/benchmarks/test_queries_live.py",
    "python -m benchmarks.engine.process --data folder": "tests/benchmarks/test_process.py",
    "python -m benchmarks.engine.walks --data folder": "tests/benchmarks/test_walks.py",
    "make bench-gpu": "tests/benchmarks/test_gpu_checks.py",
    "make bench": "tests/benchmarks/test_engine.py",
    "make bench DATA=folder": "tests/benchmarks/test_engine.py",
    "make bench-wire": "tests/benchmarks/test_wire.py",
    "python -m benchmarks.wire --quick": "tests/benchmarks/test_wire.py",
    "python -m benchmarks.wire.steps": "tests/benchmarks/test_wire.py",
    "python -m tests.deploy.days": "tests/deploy/test_days.py",
    "guard calibrate --model model.onnx --data images/ --preprocessing preprocessing.yaml --out profile/": (
        "tests/e2e/test_images.py"
    ),
    "guard audit show ID FOLDER --key captures.key --model model.onnx --profile profile/ --out heat.png": (
        "tests/app/test_audit.py"
    ),
    "guard evaluate profile/ --model model.onnx --data held-out.npz --out report/": (
        "tests/offline/evaluate/test_report.py"
    ),
    "guard evaluate profile/ --model model.onnx --data held-out.npz --out report/ --rate 0.05 --rate 0.01": (
        "tests/offline/evaluate/test_report.py"
    ),
    "guard serve --log-format json": "tests/cli/test_serve.py",
    "kill -HUP": "tests/cli/test_reload.py",
    "PROTOCOLS=health,metadata,inference,shared-memory,model-config,model-repository,statistics,trace,logging": (
        "tests/e2e/test_restricted.py"
    ),
    "tritonserver --grpc-restricted-protocol=$PROTOCOLS:guard=SECRET --allow-http=false ...": (
        "tests/e2e/test_restricted.py"
    ),
}
"""Lines, and the tests that do the same with what they have, or in short where it takes long."""

BY_CI: Final = ("make test", "make lint", "make servers", "pytest tests/screen")
"""What .ci/run types itself, what that begins with, and a part of it."""

NAMES: Final = ("kubectl delete pod", "kubectl exec", "kubectl port-forward", "kubectl rollout restart", "ssh -L")
"""Names of commands in sentences, which nobody types without more words."""

ON_A_CLUSTER: Final = (
    "kubectl apply -k deploy/kubernetes/overlays/existing/loader",
    "kubectl apply -k deploy/kubernetes/loader",
    "kubectl apply -k my-guard",
    "kubectl -n inference cp guard-demo/digits.onnx loader:/models/digits/1/model.onnx",
    "kubectl -n inference cp guard-demo/digits.onnx loader:/profiles/digits/model.onnx",
    "kubectl -n inference cp guard-demo/profile loader:/profiles/digits/profile",
    "kubectl -n inference create secret generic guard-audit --from-file=names.key --from-file=captures.key",
    "kubectl -n inference create secret generic guard-query-store --from-file=password --from-file=ca.crt",
    "kubectl -n inference create secret generic guard-tls --from-file=tls.crt --from-file=tls.key --from-file=ca.crt",
    "kubectl -n inference create secret generic guard-noise --from-literal=secret=$(openssl rand -hex 32)",
    "kubectl -n inference delete pod loader",
    "kubectl -n inference describe pods --selector guard-sidecar=enabled",
    "kubectl -n inference exec deployment/triton -c guard -- df -h /var/lib/guard",
    "kubectl -n inference exec deployment/triton -c guard -- guard audit verify /var/lib/guard/audit",
    "kubectl -n inference exec deployment/triton -c guard -- guard profile show /profiles/digits/profile",
    "kubectl -n inference exec deployment/triton -c guard -- tar -C /var/lib/guard -cf - audit > audit.tar",
    "kubectl -n inference exec loader -- mkdir -p /models/digits/1 /profiles/digits",
    "kubectl -n inference get pods --selector guard-sidecar=enabled",
    "kubectl -n inference get pods --selector guard-sidecar=enabled --output wide",
    "kubectl -n inference logs deployment/triton -c guard",
    "kubectl -n inference logs deployment/triton -c guard --previous",
    "kubectl -n inference logs deployment/triton -c guard --tail 50",
    "kubectl -n inference logs deployment/triton -c guard > guard.log",
    "kubectl -n inference logs deployment/triton -c guard | grep 'audit log'",
    "kubectl -n inference logs deployment/triton -c guard | tee guard.log | grep self-test",
    "kubectl -n inference port-forward deployment/triton 9011 &",
    "kubectl -n inference port-forward service/triton 8001 &",
    "kubectl -n inference rollout restart deployment/triton",
    "kubectl -n inference rollout status deployment/triton",
    "kubectl -n inference rollout undo deployment/triton",
    "kubectl -n inference wait --for=condition=Ready pod/loader",
)
"""What takes a cluster: test_cluster.py holds what these lines name against what is rendered."""

_REGISTRY = "it takes Docker and a registry; tests/deploy lints the file, and builds are refused without a digest"
_MINUTES = "it draws what people look at, or tries alerts as they come, for six minutes and more"
_FILLED_IN = "it is to be filled in with another project's address"
_DOWNLOADS = "it downloads what its tests are skipped without"
_CHANGES = "it would change this machine"

_BUILD = (
    "docker build --build-arg BASE=python:3.11-slim-bookworm@sha256:... --file deploy/image/Dockerfile "
    "--tag guard:0.1.0 ."
)

NOT_HERE: Final = {
    **dict.fromkeys(
        (
            _BUILD,
            "docker build --target sbom --output . ...",
            "docker buildx imagetools inspect python:3.11-slim-bookworm",
            "docker buildx imagetools inspect registry.example/guard:0.1.0",
            "docker push registry.example/guard:0.1.0",
            "docker tag guard:0.1.0 registry.example/guard:0.1.0",
        ),
        _REGISTRY,
    ),
    "kind load docker-image guard:0.1.0": "it takes Docker, the image, and a cluster of kind's",
    "make image BASE=debootstrap": "it takes root and a mirror of Debian, for minutes",
    **dict.fromkeys(("make ops-test", "make panels", "make console-pictures DATA=folder"), _MINUTES),
    "PIP_EXTRA_INDEX_URL=<the index that page names> make demo": _FILLED_IN,
    "pip install '.[gpu]'": "it wants the other ONNX Runtime, which is not here and would break the one that is",
    "make PYTHON=python3.12 env": "it takes another Python, and makes the environment anew",
    **dict.fromkeys(("make ray-test", "make test-kernel", "playwright install chromium"), _DOWNLOADS),
    "npm pack htmx.org@VERSION": "it is to be filled in with another version than the one that is here",
    "sudo apt install prometheus prometheus-alertmanager": _CHANGES,
    "sudo systemctl start prometheus prometheus-alertmanager": _CHANGES,
    "sudo systemctl stop prometheus prometheus-alertmanager": _CHANGES,
}
"""Lines, and why they are not typed."""

PLACES: Final = (tuple(ELSEWHERE), BY_CI, NAMES, ON_A_CLUSTER, tuple(NOT_HERE))
"""Where a line can be that is not typed here: in one of them."""


def lines(steps: tuple[Step | Serving | File, ...] = ROUTE) -> Iterator[str]:
    """All lines of the route, in its order."""
    for step in steps:
        if not isinstance(step, File):
            yield step.line
        if isinstance(step, Serving):
            yield from lines(step.meanwhile)
