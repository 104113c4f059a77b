# Needs Python 3.11 or newer and pip; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
ROOT ?= indexmill-data
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench clean

help:  ## Show this.
	@awk 'BEGIN {FS = ":.*## "} /^## / {printf "\n%s\n", substr($$0, 4)} /^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## To use it

install: $(INSTALLED)  ## Create .venv with the pinned dependencies.

demo: $(INSTALLED)  ## Build two indexes from real data with real models (about 4 minutes).
	$(BIN)/indexmill demo --root $(ROOT)

## To change it

test: $(INSTALLED)  ## Run the tests.
	$(BIN)/python -m pytest

check: $(INSTALLED)  ## Style, types, and who may import whom.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/pip check

bench: $(INSTALLED)  ## Measure; figures go to standard output.
	$(BIN)/python benchmarks/spine.py
	$(BIN)/python benchmarks/ingest.py --items 20000
	test -z "$$INDEXMILL_REAL_DATA" || $(BIN)/python benchmarks/encode.py
	test -z "$$INDEXMILL_REAL_DATA" || $(BIN)/python benchmarks/encode.py --memory
	$(BIN)/python -m benchmarks.runbook --items 20000
	$(BIN)/python -m benchmarks.index_memory --sizes 50000 200000
	$(BIN)/python -m benchmarks.serve

clean:  ## Remove .venv and caches; data stays.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis indexmill.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo,serve,dev]' -c constraints.txt
	touch $@
