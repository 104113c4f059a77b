# Needs Python 3.11 or newer and pip; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
ROOT ?= indexmill-data
PORT ?= 4200
# What the server and the worker make under the root is the user's alone, as what builds make.
PREFECT := umask $${INDEXMILL_UMASK:-077}; PREFECT_HOME=$(abspath $(ROOT))/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
CLIENT := $(PREFECT) PREFECT_API_URL=http://127.0.0.1:$(PORT)/api INDEXMILL_ROOT=$(abspath $(ROOT)) INDEXMILL_HOME=$(CURDIR)
INSTALLED := .venv/installed
ifdef DATABASE # handed on in the environment: it holds a password, and make shows what it runs
export PREFECT_SERVER_DATABASE_CONNECTION_URL := $(DATABASE)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo server worker deploy up test check audit soak bench clean

help:  ## Show this.
	@awk 'BEGIN {FS = ":.*## "} /^## / {printf "\n%s\n", substr($$0, 4)} /^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## To use it

install: $(INSTALLED)  ## Create .venv with the pinned dependencies.

demo: $(INSTALLED)  ## Build two indexes from real data with real models (about 4 minutes).
	$(BIN)/indexmill demo --root $(ROOT)

## To run it every night

server: $(INSTALLED)  ## A Prefect server on 127.0.0.1, in SQLite under the root; with DATABASE=postgresql+asyncpg://… in the environment, in PostgreSQL.
	umask $${INDEXMILL_UMASK:-077}; mkdir -p $(ROOT)/prefect
	$(PREFECT) $(BIN)/prefect server start --host 127.0.0.1 --port $(PORT)

worker: $(INSTALLED)  ## A worker that runs what is scheduled, one process a build.
	$(CLIENT) $(BIN)/prefect worker start --pool indexmill --type process

deploy: $(INSTALLED)  ## Tell the server of all deployments in prefect.yaml, their pool, the limit `gpu`, and what ends runs that died.
	$(CLIENT) $(BIN)/python -m indexmill.flows.deployments
	$(CLIENT) $(BIN)/prefect --no-prompt deploy --all

up: $(INSTALLED)  ## Server, deployments and worker together, for a laptop; Ctrl-C ends them.
	trap 'kill 0' EXIT INT TERM; $(MAKE) server & server=$$!; \
	until $(CLIENT) $(BIN)/prefect server status --wait --timeout 5 2>/dev/null; do kill -0 $$server || exit 1; done; \
	$(MAKE) deploy && $(MAKE) worker

## To change it

test: $(INSTALLED)  ## Run the tests, two files at a time.
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 20

check: $(INSTALLED)  ## Style, types, and who may import whom.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/pip check

audit:  ## Look for known faults in the pinned dependencies, by pip-audit; asks pypi.org, so it is no part of check.
	test -x .venv/audit/bin/pip-audit || { $(PYTHON) -m venv .venv/audit && .venv/audit/bin/pip install --quiet pip-audit; }
	.venv/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

soak: $(INSTALLED)  ## Faults at length: every commit, full disks, damaged files, thirty nights (over an hour).
	INDEXMILL_SOAK=1 $(BIN)/python -m pytest tests/faults

bench: $(INSTALLED)  ## Measure; figures go to standard output.
	$(BIN)/python benchmarks/spine.py
	$(BIN)/python benchmarks/ingest.py --items 20000
	test -z "$$INDEXMILL_REAL_DATA" || $(BIN)/python benchmarks/encode.py
	test -z "$$INDEXMILL_REAL_DATA" || $(BIN)/python benchmarks/encode.py --memory
	$(BIN)/python -m benchmarks.evaluate --queries 2000 --database 20000 --peer-queries 500
	$(BIN)/python -m benchmarks.runbook --items 20000
	$(BIN)/python -m benchmarks.nightly --items 5000 --repeats 1
	$(BIN)/python -m benchmarks.index_memory --sizes 50000 200000
	$(BIN)/python -m benchmarks.serve

clean:  ## Remove .venv and caches; data stays.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis indexmill.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo,serve,dev]' -c constraints.txt
	touch $@
