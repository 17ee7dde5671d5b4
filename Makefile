# What a checkout can do. It needs Python 3.11 or newer (with venv) and make; everything else it fetches
# itself, as wheels with the hashes of requirements/*.txt, into .venv/. `make` lists the targets.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python that is new enough and can make an environment; `make PYTHON=… test` overrules.
PYTHON := $(or $(PYTHON),$(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
  if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
  then echo "$$p"; break; fi; done))
NEED_PYTHON = $(if $(PYTHON),,$(error No Python 3.11 or newer with venv was found. \
  Install one (Debian and Ubuntu: apt install python3-venv), or name it: make PYTHON=/path/to/python $@))

VENV := .venv
RUN_VENV := $(VENV)/run
BIN := $(VENV)/bin
RUN_STAMP := $(RUN_VENV)/.installed
DEV_STAMP := $(VENV)/.installed
WHEEL_STAMP := $(VENV)/.wheel
NODE_STAMP := tests/node/node_modules/.installed
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet --no-input --only-binary :all: --require-hashes
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --no-emit-index-url --no-emit-find-links
SOURCES := $(shell find forwarder -type f ! -name '*.pyc') pyproject.toml README.md

# What runs at once in `make test`; two is what a small CI machine has.
WORKERS := 2
COVERAGE_MIN := 95
# Passed on: `make test ARGS="-k spool -x"` (a part of the tests covers a part: nothing is demanded then).
ARGS :=
COVERAGE = $(if $(ARGS),,--cov --cov-report=term --cov-fail-under=$(COVERAGE_MIN))
# Where wheels of the same commit come out the same, byte for byte.
export SOURCE_DATE_EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null || echo 1700000000))

.PHONY: help demo run test check bench lock wheel clean env node

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUN_STAMP) ## Watch the daemon work between two stand-in vendors; needs no configuration
	@exec $(RUN_VENV)/bin/python -m forwarder demo

run: $(RUN_STAMP) ## Run the daemon with the settings of the environment and .env
	@exec $(RUN_VENV)/bin/python -m forwarder run

# PYTHONSAFEPATH keeps the checkout off sys.path, here and in every process that a test starts:
# what is tested is what the wheel installed.
test: $(WHEEL_STAMP) ## Build the wheel, install it, and run every test against it
	rm -f .coverage .coverage.*
	PYTHONSAFEPATH=1 EXPECT_INSTALLED_WHEEL=1 $(BIN)/pytest -n $(WORKERS) $(COVERAGE) $(ARGS)

check: $(DEV_STAMP) ## Formatting, lint, types, import floors, spelling, scripts, Dockerfile, lock files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/shellcheck .ci/run
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -P -m pytest -q -p no:cacheprovider tests/repository/test_locks.py

bench: $(WHEEL_STAMP) ## Measure throughput and cost beside a bare handler and the SDK, in one run (needs wrk)
	PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m benchmarks.run $(ARGS)

wheel: $(DEV_STAMP) ## Build dist/forwarder-*.whl
	rm -rf dist && $(BIN)/hatchling build -t wheel -d dist

lock: $(DEV_STAMP) ## Resolve requirements/*.in afresh into requirements/*.txt
	cd requirements && for f in run build dev; do \
	  ../$(LOCK) --upgrade $$f.in -o $$f.txt || exit 1; done

env: $(DEV_STAMP) ## Make the environment that the tests and checks use, in .venv/

node: $(NODE_STAMP) ## Fetch the Node packages that some tests drive (needs npm)

clean: ## Remove what these targets made, but never data/
	rm -rf $(VENV) dist build .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
	  .hypothesis tests/node/node_modules
	find forwarder tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_STAMP): requirements/run.txt
	$(NEED_PYTHON)
	@echo "Installing what runs the daemon into $(RUN_VENV) ..."
	@$(PYTHON) -m venv $(RUN_VENV)
	@$(RUN_VENV)/bin/python $(PIP_INSTALL) -r requirements/run.txt
	@touch $@

$(DEV_STAMP): requirements/dev.txt
	$(NEED_PYTHON)
	@echo "Installing what checks and tests the daemon into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

# --no-deps: the lock file has installed them; --no-index: nothing but this wheel can be meant.
$(WHEEL_STAMP): $(DEV_STAMP) $(SOURCES)
	rm -rf $(VENV)/dist
	$(BIN)/hatchling build -t wheel -d $(VENV)/dist
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-index --force-reinstall \
	  $(VENV)/dist/forwarder-*.whl
	@touch $@

$(NODE_STAMP): tests/node/package-lock.json
	cd tests/node && npm ci --no-audit --no-fund --ignore-scripts
	@touch $@
