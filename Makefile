# Needs python3 (3.11 or newer) with venv, and make. Everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --no-input --only-binary :all: --constraint constraints.txt
NODE_CLIENTS := tests/node/node_modules/.installed
ARGS ?=
# Tests run side by side, on as many cores as there are, at most 4. WORKERS=0: one after the other.
WORKERS ?= auto
POLYWIRE_ROUNDS ?= 100

# The tests start hundreds of hubs and commands: each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint bench crash setup
.DEFAULT_GOAL := test

run: setup ## serve the example; make run ARGS="--free-ports"
	$(VENV)/bin/polywire run examples/greenhouse/app.py $(ARGS)

test: setup ## everything but the long runs; make test ARGS="tests/core -k settle"
	$(PY) -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal $(ARGS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: setup
	$(PY) -m bench $(ARGS)

crash: setup ## kill -9 and power loss, at length
	POLYWIRE_ROUNDS=$(POLYWIRE_ROUNDS) $(PY) -m pytest -m long --timeout 3600 $(ARGS)

setup: $(VENV)/.installed

# An existing environment is brought up to date, never rebuilt. The build backend comes from the constraints as well,
# hence no build isolation.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable '.[all,bench,dev]'
	@touch $@

# The JavaScript clients: where node is missing, the tests that need them skip, or fail with POLYWIRE_REQUIRE_ALL=1.
ifneq ($(and $(shell command -v node 2>/dev/null),$(shell command -v npm 2>/dev/null)),)
test: $(NODE_CLIENTS)
else ifeq ($(POLYWIRE_REQUIRE_ALL),1)
test: node-is-missing
endif

$(NODE_CLIENTS): tests/node/package.json
	cd tests/node && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error
	@touch $@

.PHONY: node-is-missing
node-is-missing:
	@echo 'POLYWIRE_REQUIRE_ALL=1, but node and npm are not both installed' >&2; exit 1
