# rlhf-operator: `make help` lists every target. All of them need Python 3.11 or newer and nothing else; what they install stays in .venv/
# and in $XDG_CACHE_HOME/rlhf-operator (default: ~/.cache/rlhf-operator).
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
UV_VERSION := 0.13.9
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rlhf-operator
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
BIN := .venv/bin
READY := .venv/.ready
TRL_VERSION := 1.12.0
TRL := $(CACHE)/trl-$(TRL_VERSION)
UNIT := tests/unit
ORACLE := tests/oracle
LOCAL := tests/local
WIRE := tests/wire
CLUSTER := tests/cluster
E2E := tests/e2e

##@ Use it
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Install the locked stack into .venv (does nothing when it is up to date)

demo: setup ## The whole chain on a tiny model: raw text to a 4-bit chat model, in minutes and without a download
	@mkdir -p models
	$(BIN)/rlhf run examples/tiny-chat.yaml --claim models=models --fresh

demo-real: setup ## The same chain on a real pretrained model (Gemma-3 270M, fetched under its licence)
	@mkdir -p models
	$(BIN)/python examples/real-model/fetch.py --to models/gemma3-270m
	$(BIN)/python examples/real-model/job.py --to models/real-chat.yaml
	$(BIN)/rlhf run models/real-chat.yaml --claim models=models --fresh
	$(BIN)/python examples/real-model/check.py .rlhf/real-chat models/real-chat

##@ Work on it
test: lint ## What needs Python only: lint, then the unit, oracle, wire and local tests (.ci/run adds cluster-test and e2e)
	$(BIN)/pytest $(UNIT) $(ORACLE) $(WIRE) $(LOCAL)

test-unit: setup ## Pure code only, in about a minute
	$(BIN)/pytest $(UNIT)

test-oracle: setup ## The numerics, against independent implementations and mutants
	$(BIN)/pytest $(ORACLE)

test-wire: setup ## Real kopf and the real client against a small API server in this process
	$(BIN)/pytest $(WIRE)

test-local: setup ## The chain in real processes: crash, resume, bad input
	$(BIN)/pytest $(LOCAL)

numerics: setup $(TRL) ## Every rule, mutant and equivalence class, learning, memory: writes docs/numerics.md (half an hour)
	PYTHONPATH=$(TRL) $(BIN)/python -m tests.oracle.numerics

chaos: setup ## Kill, stop, corrupt, fill and resume every stage at 20 random moments; 0 may be lost
	$(BIN)/python -m tests.chaos

cluster-test: setup ## On a real control plane: rules, rights, faults (needs Go 1.26; builds Kubernetes once, in minutes)
	$(BIN)/python -m tests.support.cluster build
	$(BIN)/pytest $(CLUSTER)

e2e: setup ## In real pods on a node of its own: the chain and every fault (needs root on Debian, and Go; builds images once)
	$(BIN)/python -m tests.support.node build
	$(BIN)/pytest $(E2E) --timeout=1500

cluster-up: setup ## Start a cluster to work with; prints how kubectl finds it
	@$(BIN)/python -m tests.support.cluster up

cluster-down: setup ## End that cluster and remove every trace of it
	@$(BIN)/python -m tests.support.cluster down

lint: setup ## ruff, mypy --strict and the walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup ## Format the code and repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: setup ## Write the CRDs, docs/fields.md and the golden files anew (needs Go, for Helm); the diff is a decision
	$(BIN)/python -m rlhf_api.crd.render
	$(BIN)/python -m rlhf_api.crd.manual > docs/fields.md
	cp crds/*.rlhf.dev.yaml charts/rlhf-operator/crds/
	cp crds/rlhfjob-changes.yaml crds/optional/profile-limits.yaml charts/rlhf-operator/policies/
	GOLDEN=write $(BIN)/pytest -q $(UNIT)/api $(UNIT)/cli $(UNIT)/operator/test_metrics.py
	GOLDEN=write $(BIN)/pytest -q $(CLUSTER)/test_chart.py -k renders_are_public

clean: ## Remove what was installed, run and built here (models/ and downloads stay)
	rm -rf .venv .rlhf .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find operator trainer tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is ready when it is newer than what it was made from. uv itself comes from PyPI into a cache outside the repository.
# Bytecode is compiled here, once: where PYTHONDONTWRITEBYTECODE is set, every process of a stage would compile torch and transformers anew.
$(READY): uv.lock pyproject.toml | $(UV)
	$(UV) sync --frozen --all-extras --quiet --compile-bytecode
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@rm -rf $(CACHE)/uv-$(UV_VERSION).new && mkdir -p $(CACHE)
	$(PYTHON) -m venv $(CACHE)/uv-$(UV_VERSION).new
	$(CACHE)/uv-$(UV_VERSION).new/bin/pip install --quiet uv==$(UV_VERSION)
	@mv -T $(CACHE)/uv-$(UV_VERSION).new $(CACHE)/uv-$(UV_VERSION)

# The last TRL with a PPO, beside our stack and not in it: only `make numerics` compares with it.
$(TRL): | $(READY)
	@rm -rf $@.new
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --target $@.new trl==$(TRL_VERSION)
	@mv -T $@.new $@

.PHONY: help setup demo demo-real test test-unit test-oracle test-wire test-local numerics chaos cluster-test e2e cluster-up cluster-down lint format golden clean
