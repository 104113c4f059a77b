# Needs Python 3.11 or newer and pip; everything else goes into .venv.
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
# Two test files at a time, in the order of their names: files share servers and builds among their own tests, and the long ones come early.
# In the quick tests one process runs every file that builds (tests/conftest.py).
TWO_FILES := -n 2 --dist loadfile --no-loadscope-reorder
ROOT ?= indexmill-data
PORT ?= 4200
DASK_PORT ?= 8786
S3_PORT ?= 8333
WORKERS ?= 2
BENCH ?= bench-results
# Files that the server and the worker write under the root belong to the user alone, as those of builds do.
PREFECT := umask $${INDEXMILL_UMASK:-077}; PREFECT_HOME=$(abspath $(ROOT))/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
CLIENT := $(PREFECT) PREFECT_API_URL=http://127.0.0.1:$(PORT)/api INDEXMILL_ROOT=$(abspath $(ROOT)) INDEXMILL_HOME=$(CURDIR)
INSTALLED := .venv/installed
ifdef DATABASE # passed in the environment, because it holds a password and make prints its commands
export PREFECT_SERVER_DATABASE_CONNECTION_URL := $(DATABASE)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo server worker deploy up cluster test test-all check docs audit soak bench clean

help:  ## Show this help.
	@awk 'BEGIN {FS = ":.*## "} /^## / {printf "\n%s\n", substr($$0, 4)} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## Use it

install: $(INSTALLED)  ## Create .venv with the pinned dependencies.

demo: $(INSTALLED)  ## Build two indexes from real data with real models (about 2 minutes).
	$(BIN)/indexmill demo --root $(ROOT)

## Run it every night

server: $(INSTALLED)  ## Start a Prefect server on 127.0.0.1, with SQLite under the root; DATABASE=postgresql+asyncpg://… uses PostgreSQL.
	umask $${INDEXMILL_UMASK:-077}; mkdir -p $(ROOT)/prefect
	$(PREFECT) $(BIN)/prefect server start --host 127.0.0.1 --port $(PORT)

worker: $(INSTALLED)  ## Start a worker that runs scheduled builds, one process per build.
	$(CLIENT) $(BIN)/prefect worker start --pool indexmill --type process

deploy: $(INSTALLED)  ## Create the deployments in prefect.yaml, the work pool, the limit `gpu`, and the automation for crashed runs.
	$(CLIENT) $(BIN)/python -m indexmill.flows.deployments
	$(CLIENT) $(BIN)/prefect --no-prompt deploy --all

up: $(INSTALLED)  ## Start server, deployments and worker together; Ctrl-C stops them.
	trap 'kill 0' EXIT INT TERM; $(MAKE) server & server=$$!; \
	until $(CLIENT) $(BIN)/prefect server status --wait --timeout 5 2>/dev/null; do kill -0 $$server || exit 1; done; \
	$(MAKE) deploy && $(MAKE) worker

cluster: $(INSTALLED)  ## Start a Dask scheduler, WORKERS=2 workers and an S3 server on 127.0.0.1, to try builds on several machines; Ctrl-C stops them.
	@$(BIN)/python -m indexmill.flows.local_cluster --root $(ROOT) --dask-port $(DASK_PORT) --s3-port $(S3_PORT) --workers $(WORKERS)

## Change it

test: $(INSTALLED)  ## Run the quick tests, two files at a time.
	$(BIN)/python -m pytest $(TWO_FILES) --durations 10

test-all: $(INSTALLED)  ## Run all tests: the quick ones and the slow ones.
	$(BIN)/python -m pytest -m "" $(TWO_FILES) --durations 20

check: $(INSTALLED)  ## Check style, types and import rules.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/pip check

docs: $(INSTALLED)  ## Regenerate docs/cli.md, docs/config.md and the JSON schemas.
	$(BIN)/python -m typer indexmill.flows.cli.app utils docs --name indexmill --title Commands --output docs/cli.md
	$(BIN)/python -m indexmill.configs.reference docs/config.md
	$(BIN)/python -m indexmill.storage.schemas

audit:  ## Check the pinned dependencies for known vulnerabilities (needs network access).
	test -x .venv/audit/bin/pip-audit || { $(PYTHON) -m venv .venv/audit && .venv/audit/bin/pip install --quiet pip-audit; }
	.venv/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

soak: $(INSTALLED)  ## Inject faults at length: every commit, full disks, damaged files, thirty nights (over an hour).
	INDEXMILL_SOAK=1 $(BIN)/python -m pytest -m "" tests/faults tests/cluster tests/flows/test_make_up.py

bench: $(INSTALLED)  ## Measure in a short form; figures, plots and a page that lists them go to BENCH=bench-results.
	$(BIN)/python -m benchmarks --out $(BENCH)

clean:  ## Remove .venv and caches; data stays.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis indexmill.egg-info

# Sizes measured on Linux: torch with its CUDA libraries is most of it.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing the pinned dependencies into .venv: about 3.5 GB to download, 7.4 GB on disk (torch and its CUDA libraries)."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@set -o pipefail; start=$$(date +%s); $(BIN)/pip install --disable-pip-version-check --progress-bar on -e '.[demo,serve,sql,heif,dask,ray,lancedb,pgvector,qdrant,dev]' -c constraints.txt \
	  | { grep --line-buffered -E "^ *(Downloading|Installing collected|Successfully)|error" | cut -c1-120 || true; } \
	  && test -x $(BIN)/indexmill && echo "Installed in $$(($$(date +%s) - start)) s. Next: source .venv/bin/activate, then indexmill --help"
	@$(BIN)/pip install --disable-pip-version-check --quiet hnswlib -c constraints.txt >/dev/null 2>&1 \
	  || echo "hnswlib was not compiled, for which a C++ compiler is needed: its export and its tests are left out."
	@touch $@
