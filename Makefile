# Needs only python3 (3.11 or later) with venv and pip; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install run test check bench bench-core bench-quality soak check-system check-deploy lock clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(BIN)/gaveurs: requirements.lock requirements-build.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements-build.lock -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements-dev.lock $(BIN)/gaveurs
	$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

install: $(BIN)/gaveurs ## Make .venv with the product and what it needs

run: install ## The whole thing with simulated devices: http://127.0.0.1:8000 (ARGS="--port 8100" to change)
	@exec $(BIN)/gaveurs demo $(ARGS)

check: .venv/.dev ## Lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## Checks and all tests that need nothing but this repository
	$(BIN)/python -m pytest $(ARGS)

soak: .venv/.dev ## Long outages and load, up to 15 minutes
	$(BIN)/python -m pytest --timeout 900 --override-ini addopts="-q -p no:cacheprovider -s" tests/soak $(ARGS)

.venv/.browser: requirements-browser.lock .venv/.dev
	$(PIP) --require-hashes -r requirements-browser.lock
	@touch $@

check-system: .venv/.browser ## What needs Debian's packages: another PostgreSQL, two replicas behind haproxy, Chromium
	sh scripts/check_system.sh

.venv/.deploy: requirements-deploy.lock .venv/.dev
	$(PIP) --require-hashes -r requirements-deploy.lock
	@touch $@

check-deploy: .venv/.deploy ## Prometheus, dashboards, Alertmanager, container, Compose, Kubernetes, shipping, backup: by the real tools
	sh scripts/check_deploy.sh $(ARGS)

.venv/.bench: requirements-bench.lock .venv/.dev
	$(PIP) --require-hashes -r requirements-bench.lock
	@touch $@

bench: .venv/.bench ## Side-by-side measurements; writes docs/benchmarks.md's figures to the terminal
	$(BIN)/python -m benchmarks.core
	$(BIN)/python -m benchmarks $(ARGS)

bench-core: .venv/.bench ## The first half of them: breaker, cache, limits, requests, what they cost ingest
	$(BIN)/python -m benchmarks.core $(ARGS)

bench-quality: .venv/.dev ## The same for grading, dashboards, regrading and figures
	$(BIN)/python -m benchmarks.quality $(ARGS)

COMPILE := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock: ## Resolve the dependencies anew (needs uv)
	$(COMPILE) requirements-build.in -o requirements-build.lock
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(COMPILE) -c requirements-dev.lock requirements-browser.in -o requirements-browser.lock
	$(COMPILE) -c requirements-dev.lock requirements-bench.in -o requirements-bench.lock
	$(COMPILE) -c requirements-dev.lock requirements-deploy.in -o requirements-deploy.lock

clean: ## Remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache
