# `make demo` and `make test` work on a fresh clone: they make the environments they need, once.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
TRITON_VENV := .venv-triton
# Triton's language, which torch for CUDA brings along, and no other torch does.
KERNEL_VENV := .venv-kernel
TRITON_LANGUAGE := triton==3.9.0
# What else tests run, each in an environment of its own: servers, and Ray.
SERVERS := mlserver kserve envoy ray
BIN := $(VENV)/bin
PROMETHEUS_3 := build/prometheus3
SCHEMA := deploy/policy.schema.json
# Its date is that of the last complete installation.
INSTALLED := $(VENV)/.installed

# Real images to measure on: mnist.npz and cifar10-jpeg.zip.
# What `make image` makes; see deploy/image/build.sh.
export VARIANT BASE TRIAL PUSH

DATA ?= $(firstword $(wildcard data ../shared/data) data)
RUNS ?= 1
MINUTES ?= 60
# Processes that tests run in.
WORKERS ?= 2

.PHONY: $(SERVERS:%=.venv-%) $(shell sed -nE 's/^([a-z0-9-]+):.*\#\# .*/\1/p' Makefile)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Guard a small model, attack it, and show what was caught (a few minutes)
	@$(BIN)/guard demo

test: $(INSTALLED) ## Run every check and the whole test suite, with real servers (some twenty minutes on two cores; WORKERS=2)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=recurse lint servers
	@echo "== pytest"
	@$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-kernel: $(INSTALLED) $(KERNEL_VENV)/triton ## Run the GPU's noise kernel on the CPU, by Triton's interpreter (takes a gigabyte of disk)
	@PYTHONPATH=$(CURDIR)/$(KERNEL_VENV) $(BIN)/pytest tests/screen/test_noise_kernel.py

example-inprocess: $(INSTALLED) ## Serve a model in Python that Guard screens as a library (minutes the first time)
	@$(BIN)/python -m examples.inprocess

example-triton: $(INSTALLED) triton ## Serve a model with a real Triton behind Guard, and attack it (minutes the first time)
	@$(BIN)/python -m examples.triton

example-kserve: $(INSTALLED) .venv-kserve ## Serve a model with KServe's Python server behind Guard, and attack it (minutes the first time)
	@$(BIN)/python -m examples.kserve

ops-test: $(INSTALLED) triton ray-test ## Calibrate on Ray; attack a Guard and go round it while a real Prometheus and Alertmanager watch; ask what dashboards ask; build the image and have it guard (twenty minutes; Debian packages prometheus, prometheus-alertmanager, buildah, debootstrap, and docker-registry to push to)
	@tests/ops/prometheus3.sh $(PROMETHEUS_3)
	@[ ! -d $(PROMETHEUS_3) ] || { echo "== rules and dashboards, by promtool 3"; \
		PATH="$(CURDIR)/$(PROMETHEUS_3)/usr/bin:$$PATH" $(BIN)/pytest tests/deploy/test_rules.py tests/deploy/test_dashboards.py; }
	@echo "== live"
	@$(BIN)/pytest -s -rs tests/ops/live_alerts.py tests/ops/live_histograms.py tests/ops/live_panels.py tests/ops/live_image.py

metrics-table: $(INSTALLED) ## Write the table in docs/metrics.md from the metrics that Guard has
	@PYTHONPATH=. $(BIN)/python docs/metrics_table.py

detection-table: $(INSTALLED) ## Write the table of what was measured in docs/threat-model.md from the results
	@$(BIN)/python docs/detection_table.py

dashboards: $(INSTALLED) ## Write the Grafana dashboards from their code
	@$(BIN)/python -m deploy.grafana.dashboards

panels: $(INSTALLED) triton ## Draw the dashboards' panels from a real Prometheus into docs/images (nine minutes; Debian package prometheus)
	@$(BIN)/python -m tests.ops.panels

bench: $(INSTALLED) ## Measure the screening engine beside every reference (under fifteen minutes a run; DATA=folder of images, RUNS=3)
	@$(BIN)/python -m benchmarks.engine --data $(DATA) --runs $(RUNS)

bench-queries: $(INSTALLED) ## Show query attacks and honest clients to the memory of queries, beside Blacklight (an hour; DATA=folder of images)
	@$(BIN)/python -m benchmarks.queries --data $(DATA) --images 40 --clients 480

bench-queries-live: $(INSTALLED) ## Attack the digits through a running sidecar, query by query (half an hour)
	@$(BIN)/python -m benchmarks.queries.live --images 10 --queries 60

bench-queries-live-mnist: $(INSTALLED) ## The same on MNIST (half an hour; DATA=folder of images)
	@$(BIN)/python -m benchmarks.queries.live --data $(DATA) --images 8 --queries 60

bench-wire: $(INSTALLED) triton .venv-envoy ## Measure Guard beside nginx and Envoy in front of a real Triton (under ten minutes)
	@$(BIN)/python -m benchmarks.wire

console-pictures: $(INSTALLED) triton ## Photograph the console in front of a real Triton (ten minutes; DATA=folder of images; Debian package chromium)
	@$(BIN)/python -m benchmarks.console --data $(DATA)

bench-audit: $(INSTALLED) ## Measure what the audit log costs a request (a minute)
	@$(BIN)/python -m benchmarks.audit

bench-universal: $(INSTALLED) ## Show perturbations crafted for many images at once to the detector of them (five minutes; DATA=folder of images)
	@$(BIN)/python -m benchmarks.universal --data $(DATA)

bench-gpu: $(INSTALLED) ## Check the engine on a GPU and measure it there (under eight minutes; without a GPU: the checks only)
	@$(BIN)/python -m benchmarks.engine.gpu --data $(DATA)

bench-train: $(INSTALLED) ## Train the benchmarks' models again (an hour; DATA=folder of images)
	@$(BIN)/python -m benchmarks.train lenet5 --data $(DATA)
	@$(BIN)/python -m benchmarks.train lenet5-clean --data $(DATA)
	@$(BIN)/python -m benchmarks.train resnet20 --data $(DATA)
	@$(BIN)/python -m benchmarks.train resnet20-clean --data $(DATA)

evaluate-mnist: $(INSTALLED) ## Calibrate, attack and evaluate LeNet-5 on MNIST (half an hour; DATA=folder of images)
	@$(BIN)/python -m benchmarks.detection mnist --data $(DATA)

evaluate-cifar10: $(INSTALLED) ## The same for ResNet-20 on CIFAR-10 (some five hours; a stopped run resumes)
	@$(BIN)/python -m benchmarks.detection cifar10 --images 100 --data $(DATA)

evaluate-left-out: $(INSTALLED) ## Both again, and without each family of attacks in turn (ten hours; a stopped run resumes)
	@$(BIN)/python -m benchmarks.detection mnist --left-out --data $(DATA)
	@$(BIN)/python -m benchmarks.detection cifar10 --images 100 --left-out --data $(DATA)

evaluate-projection: $(INSTALLED) ## What principal components would catch of the attacks of the two evaluations (minutes)
	@$(BIN)/python -m benchmarks.detection.projection mnist --data $(DATA)
	@$(BIN)/python -m benchmarks.detection.projection cifar10 --images 100 --data $(DATA)

evaluate-certified: $(INSTALLED) ## Count test images that are right and certified within an L2 radius (minutes; DATA=folder of images)
	@$(BIN)/python -m benchmarks.detection.certified --data $(DATA)

soak: $(INSTALLED) ## Run the engine at 80 % load with random cancellations for half an hour (DATA=folder of images)
	@$(BIN)/python -m benchmarks.engine.soak --data $(DATA)

fuzz: $(INSTALLED) ## Give the parsers a million mutated messages and bodies, guided by coverage (a minute or two)
	@$(BIN)/python -m benchmarks.fuzz

fuzz-differential: $(INSTALLED) triton ## Look for requests that Triton takes for another than was screened (MINUTES=60)
	@$(BIN)/python -m benchmarks.fuzz.differential --minutes $(MINUTES)

chaos: $(INSTALLED) triton ## Try what Guard bears: faults, floods, long runs (over an hour; ROWS="restart stopped" for some)
	@$(BIN)/python -m benchmarks.chaos $(addprefix --only ,$(ROWS))

env: $(INSTALLED) ## Make .venv with everything that Guard and its tests import
	@echo "$(VENV) is ready."

triton: $(INSTALLED) ## Make .venv-triton, which holds the real Triton server for the end-to-end tests
	@PYTHON=$(CURDIR)/$(BIN)/python tests/e2e/triton_env.sh $(TRITON_VENV)

servers: triton $(SERVERS:%=.venv-%) ## Make the environments of all that tests run: Triton, MLServer, KServe, Envoy and Ray (downloads 480 MB)

ray-test: $(INSTALLED) .venv-ray ## Calibrate on a local Ray cluster and without one: the results are the same (downloads 80 MB)
	@$(BIN)/pytest tests/offline/test_ray.py

lint: $(INSTALLED) ## Check style, types and the direction of imports
	@echo "== ruff check";  $(BIN)/ruff check
	@echo "== ruff format"; $(BIN)/ruff format --check
	@echo "== mypy";        $(BIN)/mypy
	@echo "== lint-imports"; $(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## Format the code, and mend what ruff can mend
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

proto: $(INSTALLED) ## Generate guard/pb from the vendored protocol
	@PYTHON=$(BIN)/python proto/generate.sh

docs: $(INSTALLED) ## Build the documentation as a site, in build/site; its links are checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "The site is in build/site. To read it: $(BIN)/python -m http.server --directory build/site"

schema: $(INSTALLED) ## Generate the JSON Schema of the policy file, for editors
	@$(BIN)/python -c 'import json, pathlib, sys; from guard.config_file import json_schema; \
		pathlib.Path(sys.argv[1]).write_text(json.dumps(json_schema(), indent=2) + "\n")' $(SCHEMA)

kubernetes: $(INSTALLED) ## Write rules and dashboards as Kubernetes resources, after deploy/prometheus or deploy/grafana changed
	@$(BIN)/python deploy/kubernetes/collect.py

image: ## Build the container image with buildah (VARIANT=cpu or gpu, BASE=image@sha256:..., or BASE=debootstrap without a registry; PUSH=repository)
	@deploy/image/build.sh

constraints: $(INSTALLED) ## Write constraints.txt from .venv, after packages in it were upgraded and tested
	@{ sed '/^[^#]/,$$d' constraints.txt; \
	   $(BIN)/pip list --format=freeze --exclude-editable --exclude pip | sed 's/+cpu$$//'; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt
	@touch $(INSTALLED)

clean: ## Remove caches and build outputs
	@rm -rf build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find guard tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the environments and what the demo made too
	@rm -rf $(VENV) $(TRITON_VENV) $(KERNEL_VENV) $(SERVERS:%=.venv-%) guard-demo guard-example

$(KERNEL_VENV)/triton: | $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(KERNEL_VENV) $(TRITON_LANGUAGE)

# pip is the last thing that venv makes, so a creation that broke half-way is begun again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Guard needs Python 3.11 or later, and '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>/dev/null || echo 'not there')." >&2; \
		echo "Install one and name it: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)

# Each has a name of its own as a target. Most of what is installed is never imported, so nothing is compiled yet.
$(SERVERS:%=.venv-%): .venv-%: .venv-%/.installed

$(SERVERS:%=.venv-%/.installed): .venv-%/.installed: constraints-%.txt | $(INSTALLED)
	@$(BIN)/python -m venv --clear .venv-$*
	@.venv-$*/bin/pip install --quiet --no-compile --disable-pip-version-check --no-deps --requirement constraints-$*.txt \
		2> >(grep -v '^WARNING: Location .* is ignored' >&2)
	@touch $@
	@echo ".venv-$* is ready."

# An environment variable, because it holds for the build backend too. pip warns of each index that lacks a package.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing the packages pinned in constraints.txt (the first time takes minutes; no GPU? see docs/install.md)"
	@PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
		$(BIN)/pip install --progress-bar off --editable '.[cpu,redis,audit,otel,client,evaluate,docs,dev]' \
		2> >(grep -v '^WARNING: Location .* is ignored' >&2) \
		| sed -unE 's/^(Collecting [[:alnum:]_.-]+).*/  \1/p; s/^(Installing) collected.*/  \1 .../p'
	@touch $@
