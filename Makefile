# make demo   set up .venv, simulate, estimate, print the NMSE table, draw the pictures (a second run is quick)
# make test   set up what the tests need and run every check (make test-lowest: the tests again, on the oldest versions)
# make help   the rest

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
PIP := $(BIN)/python -m pip --disable-pip-version-check
# torch goes first and alone: asked for by another package, a range may bring a build of several gigabytes.
INSTALL := $(PIP) install --quiet --quiet --constraint constraints.txt

DEMO_OUT ?= results/demo
DEMO_SAMPLES ?= 4000
SOURCES := $(wildcard wichan/*.py wichan/*/*.py)
# Test files run in this many processes, each with one thread.
WORKERS ?= 2
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-lowest lint format api docs clean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

demo: $(DEMO_OUT)/table.txt $(DEMO_OUT)/channel.png ## from a channel model to an NMSE table and pictures
	@cat $(DEMO_OUT)/table.txt
	@echo "Numbers and pictures are in $(DEMO_OUT)."

# Always asked: a whole data set is left as it is, and then nothing below is older than it; a broken-off one is completed.
$(DEMO_OUT)/data/manifest.json: $(VENV)/.ready FORCE
	$(BIN)/wichan simulate ofdm-siso --split test -n $(DEMO_SAMPLES) -o $(DEMO_OUT)/data

$(DEMO_OUT)/table.txt: $(DEMO_OUT)/data/manifest.json $(SOURCES)
	$(BIN)/wichan evaluate --data $(DEMO_OUT)/data -o $(DEMO_OUT) > $@

$(DEMO_OUT)/channel.png: $(DEMO_OUT)/data/manifest.json $(SOURCES)
	$(BIN)/wichan plot $(DEMO_OUT)/data -o $@

test: export OMP_NUM_THREADS := 1
test: export MKL_NUM_THREADS := 1
test: lint ## every check: lint, format, types, room order, tests
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-lowest: export OMP_NUM_THREADS := 1
test-lowest: export MKL_NUM_THREADS := 1
test-lowest: $(LOWEST)/.ready ## the quick tests on the lowest versions of every dependency, without Sionna
	$(LOWEST)/bin/python -m pytest -n $(WORKERS) -m "not slow and not notebook" $(PYTEST_ARGS)

lint: $(VENV)/.ready-test ## the checks that run no test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready-test ## sort imports, mend what ruff can mend, lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

api: $(VENV)/.ready-test ## write tests/api_surface.json anew, after a public name or its signature was changed on purpose
	$(BIN)/python tests/test_api_surface.py --update

docs: $(VENV)/.ready-docs ## the site, into docs/_build/html; a warning is an error, so nothing is reused
	$(BIN)/python -m sphinx -E -W --keep-going -d docs/_build/doctrees -b html docs docs/_build/html

clean: ## remove .venv, caches and results/
	rm -rf $(VENV) $(LOWEST) results docs/_build docs/_generated .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "wichan needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The empty files .ready* say which parts are installed, so that a second run starts at once.
$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) torch
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	$(INSTALL) --editable '.[docs]'
	@touch $@

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST) || { rm -rf $(LOWEST); exit 1; }
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --quiet -c constraints-lowest.txt torch
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --quiet -c constraints-lowest.txt --editable '.[test-core]'
	@touch $@
