# The one door. Every target first makes just the environments that it needs; `make` prints help.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Without bytecode every process of the heavy environments would compile torch and vLLM again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv/bin
UV_READY := .tools/uv/ready
DEV := .venv/ready
QUANTIZE := .venvs/quantize/ready
SERVE := .venvs/serve/ready
SERVE_GPU := .venvs/serve-gpu/ready
KUBEFLOW := .venvs/kubeflow/ready
CODE := src operators pipelines tests tools $(wildcard benchmarks examples)
# Two processes: most tests wait for another process that starts on one core. A module's tests stay
# together, for they share what its fixtures made. The node tier is a process of its own: a machine
# has one node, whose network the tests enter.
PYTEST := $(VENV)/python -m pytest -n 2 --dist loadfile
# mypy takes a folder with a hyphen only by itself, and none that has no code.
TYPED := src operators tests tools $(wildcard benchmarks) $(sort $(dir $(wildcard examples/*/*.py)))

##@ Start here
.PHONY: help setup tools tools-begin debian-tools packages demo demo-data-free example
help: ## Print this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' Makefile

setup: $(DEV) $(QUANTIZE) $(SERVE) ## Make all three environments (about 10 GB)

tools: ## Build the servers that tests run (once a machine; minutes)
	@$(PYTHON) -m tools.servers build

tools-begin: ## Begin that in the background; `make tools` waits for it
	@nice $(PYTHON) -m tools.servers build >/dev/null 2>&1 </dev/null &

debian-tools: ## Fetch Debian 12's promtool, without installing it (once a machine)
	@$(PYTHON) -m tools.debian obtain

packages: ## Install the Debian packages that a node for tests needs (as root; nothing when there)
	@$(PYTHON) -m tools.packages

demo: $(DEV) $(SERVE) ## Quantize the pocket model, prove it, publish it, verify it, and have it answer (DEMO_PORT=8000)
	$(VENV)/halftone run examples/01-pocket-model.yaml --workdir build/demo
	$(VENV)/halftone verify build/pocket-model-nvfp4a16
	$(VENV)/halftone serve build/pocket-model-nvfp4a16 --cpu --max-model-len 1024 --once '12+345=' $(if $(DEMO_PORT),--port $(DEMO_PORT))

demo-data-free: $(DEV) ## From source to a signed and verified artifact without vLLM, in seconds
	mkdir -p build && test -f build/demo-key || $(VENV)/halftone keygen build/demo-key
	$(VENV)/halftone run examples/pocket-model/data-free.yaml --workdir build/demo-data-free
	$(VENV)/halftone verify build/pocket-model-data-free --public-key build/demo-key.pub --rebuild 20 --source examples/pocket-model/checkpoint

example: $(DEV) ## Run a numbered example, or print the commands of one that needs a cluster: make example N=01
	@$(VENV)/python -m tools.examples $(N)

##@ Development
.PHONY: fmt lint
fmt: $(DEV) ## Format the code and mend what ruff can mend
	$(VENV)/ruff check --fix $(CODE)
	$(VENV)/ruff format $(CODE)

lint: $(DEV) ## ruff, mypy --strict, import layers, house rules
	$(VENV)/ruff check $(CODE) && $(VENV)/ruff format --check $(CODE)
	$(VENV)/mypy $(TYPED)
	$(VENV)/lint-imports && $(VENV)/python -m pytest -q --timeout 60 tests/unit/test_house_rules.py

##@ Tests
.PHONY: test test-unit test-contract test-integration test-api test-node test-gpu accept-hardware soak bench bench-scaling
.PHONY: test-rules e2e e2e-alerts e2e-kfp e2e-endpoint e2e-nodes record-kfp record-metrics kubeflow-tools
test: tools-begin lint $(QUANTIZE) $(SERVE) packages debian-tools ## Lint, then every tier that CI runs
	$(PYTEST) tests/unit tests/integration
	@$(PYTHON) -m tools.servers build && $(PYTEST) tests/contract tests/api
	$(VENV)/python -m pytest tests/node

test-unit: $(DEV) ## Pure functions, two seconds a test at most
	$(VENV)/python -m pytest tests/unit

test-contract: $(DEV) tools debian-tools ## Layers, wheel, requirement files, exact sizes
	$(VENV)/python -m pytest tests/contract

test-rules: $(DEV) debian-tools ## Every rule's suites, by Prometheus 3 and by Debian's 2.42
	@$(PYTHON) -m tools.servers build promtool helm
	$(PYTEST) $(addprefix tests/contract/test_,rules_of_debian.py chart_alerts.py chart_monitoring.py)

test-integration: $(DEV) $(QUANTIZE) $(SERVE) tools ## Real peers: S3, a Hub, llm-compressor, vLLM's parser
	$(PYTEST) tests/integration

test-api: $(DEV) tools ## The operator on a real API server, without a node and without root
	$(PYTEST) tests/api

test-node: $(DEV) tools packages ## The chart, operator and stages in pods of a real node, as root
	$(VENV)/python -m pytest tests/node

test-gpu: ## The endpoint and the engine gates on a GPU; fails where there is none
	@nvidia-smi -L >/dev/null 2>&1 || { echo "test-gpu: NOT RUN, for this machine has no NVIDIA GPU; nothing was tested and nothing passed." >&2; exit 1; }
	@$(MAKE) $(DEV) $(SERVE) $(SERVE_GPU)
	$(VENV)/python -m pytest -m gpu -s tests/gpu

accept-hardware: ## A reference recipe on its real repository, with gates, modes and speeds, on a GPU (ARGS=--dry-run prints the steps)
	@$(PYTHON) -m tools.acceptance.gpu $(ARGS)
	@$(MAKE) $(DEV) $(if $(findstring --dry-run,$(ARGS)),,$(SERVE_GPU))
	@HALFTONE_SERVE_PYTHON=$(CURDIR)/.venvs/serve-gpu/bin/python $(VENV)/python -m tools.acceptance $(ARGS)

soak: $(DEV) $(QUANTIZE) $(SERVE) tools packages ## The tests that take many minutes
	$(VENV)/python -m pytest -m soak tests

e2e-alerts: $(DEV) $(SERVE) tools ## From three faults to whom Alertmanager tells of them, by hand, without root
	$(VENV)/python -m pytest -s tests/alerting

e2e: $(DEV) $(SERVE) tools packages ## The whole way on one real node: job, endpoint, scaling, swap, faults, as root (KEEP=1 stays)
	@$(PYTHON) -m tools.servers build monitoring
	$(VENV)/python -m tests.e2e $(if $(KEEP),--keep) $(if $(LOAD),--load '$(LOAD)')

e2e-kfp: kubeflow-tools ## The pipeline and the operator against Kubeflow's real back end, by hand as root
	$(VENV)/python -m pytest tests/kubeflow

e2e-endpoint: $(DEV) $(SERVE) tools packages ## The endpoint's chart on a real node with KubeRay, by hand as root
	$(VENV)/python -m pytest -s tests/endpoint

e2e-nodes: $(DEV) $(SERVE) tools packages ## From Serve's target to a simulated node with a GPU and back, by hand as root
	@$(PYTHON) -m tools.servers build kwok
	$(VENV)/python -m pytest -s tests/nodepools

record-kfp: kubeflow-tools ## Record that back end's answers again, for the double of CI (as root)
	$(VENV)/python -m tests.kubeflow.recording

record-metrics: $(DEV) $(SERVE) tools ## Record again what vLLM, Ray and we export, for contract tests (minutes)
	$(VENV)/python -m tests.recording

kubeflow-tools: $(DEV) $(KUBEFLOW) tools packages ## Build that back end (once a machine; minutes)
	@$(PYTHON) -m tools.packages kubeflow
	@$(PYTHON) -m tools.servers build kubeflow

bench: $(DEV) $(QUANTIZE) $(SERVE) tools ## Measure against the peer and print the table
	$(VENV)/python -m benchmarks

bench-scaling: $(DEV) ## Replay every load under every policy (half an hour)
	$(VENV)/python -m benchmarks scaling

##@ Generated files
.PHONY: generate requirements verify
generate: requirements $(DEV) ## Write again whatever is generated
	$(VENV)/python -m tools.rules write && $(VENV)/python -m tools.dashboards write
	$(VENV)/python -m tools.charts write && $(VENV)/python -m tools.contract write
	$(VENV)/python -m tools.pipelines write && $(VENV)/python -m tools.reference write

requirements: $(UV_READY) ## Resolve requirements/*.txt (network; UPGRADE=--upgrade moves the pins)
	$(PYTHON) -m tools.requirements write $(UPGRADE)

verify: $(DEV) ## Check that generated files fit their sources
	$(VENV)/python -m tools.requirements check
	$(VENV)/python -m tools.charts check && $(VENV)/python -m tools.rules check && $(VENV)/python -m tools.dashboards check
	$(VENV)/python -m tools.contract check && $(VENV)/python -m tools.pipelines check && $(VENV)/python -m tools.reference check

##@ Documentation
.PHONY: docs
docs: $(DEV) ## Build the site of the documentation into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/python -m mkdocs build --strict

##@ Images
.PHONY: images
images: ## Build the container images and check them, with buildah as root (60 GB, an hour)
	$(PYTHON) -m tools.images build
	$(PYTHON) -m tools.images check

##@ Release
.PHONY: release-check audit
release-check: $(DEV) $(QUANTIZE) $(SERVE) tools ## Build wheel, sdist, charts, bills of materials and licences in build/release, and check them
	$(VENV)/python -m tools.release check

audit: $(DEV) ## Ask for advisories against every pin (network; SERVICE=pypi asks another than osv)
	$(VENV)/python -m tools.release audit $(if $(SERVICE),--service $(SERVICE))

##@ Housekeeping
.PHONY: clean
clean: ## Remove build outputs and caches; environments stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests tools $(wildcard benchmarks examples) -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV_READY): requirements/bootstrap.txt
	@$(PYTHON) -m tools.environments uv

$(DEV): requirements/dev.txt pyproject.toml $(UV_READY)
	@$(PYTHON) -m tools.environments dev

$(QUANTIZE): requirements/quantize-dev.txt pyproject.toml | $(DEV)
	@$(PYTHON) -m tools.environments quantize

$(SERVE_GPU): requirements/serve-gpu.txt pyproject.toml | $(DEV)
	@$(PYTHON) -m tools.environments serve-gpu

$(KUBEFLOW): requirements/kubeflow-e2e.txt | $(DEV)
	@$(PYTHON) -m tools.environments kubeflow

$(SERVE): requirements/serve.txt pyproject.toml stubs/vllm-dist/pyproject.toml | $(DEV)
	@$(PYTHON) -m tools.environments serve
