# What a checkout can do. It needs Python 3.11 or newer (with venv) and make; everything else it fetches
# itself, as wheels with the hashes of requirements/*.txt, into .venv/. `make` lists the targets.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -o pipefail -ec

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
WHEEL := courier_rudderstack_forwarder-*.whl
NODE_STAMP := tests/node/node_modules/.installed
SDKS := tests/sdks/.built
PIP := -m pip --disable-pip-version-check --no-input
LOCKED := --no-deps --only-binary :all: --require-hashes
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --no-strip-extras --no-emit-index-url --no-emit-find-links
SOURCES := $(shell find forwarder -type f ! -name '*.pyc') pyproject.toml README.md

# What runs at once in `make test`; two is what a small CI machine has.
WORKERS := 2
COVERAGE_MIN := 95
# Passed on: `make demo ARGS="--seconds 20"`, `make test ARGS="-k spool -x"` (a part of the tests covers a part: nothing is demanded then).
ARGS :=
COVERAGE = $(if $(ARGS),,--cov --cov-report=term --cov-fail-under=$(COVERAGE_MIN))
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' forwarder/__init__.py)
# Where wheels of the same commit come out the same, byte for byte.
export SOURCE_DATE_EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null || echo 1700000000))

.PHONY: help demo run test unit replicas check bench chaos soak image lock wheel clean env node sdks

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUN_STAMP) ## Watch the daemon work between two stand-in vendors; needs no configuration
	@exec $(RUN_VENV)/bin/python -m forwarder demo $(ARGS)

run: $(RUN_STAMP) ## Run the daemon with the settings of the environment and .env
	@exec $(RUN_VENV)/bin/python -m forwarder run

# PYTHONSAFEPATH keeps the checkout off sys.path, here and in every process that a test starts:
# what is tested is what the wheel installed.
test: $(WHEEL_STAMP) ## Build the wheel, install it, and run every test against it
	rm -f .coverage .coverage.*
	PYTHONSAFEPATH=1 EXPECT_INSTALLED_WHEEL=1 $(BIN)/pytest -n $(WORKERS) $(COVERAGE) $(ARGS)

unit: $(WHEEL_STAMP) ## The tests that start no daemon; `make unit PYTHON=python3.13 VENV=.venv/3.13` on another Python
	PYTHONSAFEPATH=1 EXPECT_INSTALLED_WHEEL=1 $(BIN)/pytest -n $(WORKERS) -m 'not journey and not slow' $(ARGS)

replicas: $(WHEEL_STAMP) ## Every test that starts a daemon, with two replicas on one Postgres in place of each (needs Postgres)
	TEST_REPLICAS=2 PYTHONSAFEPATH=1 EXPECT_INSTALLED_WHEEL=1 $(BIN)/pytest -n $(WORKERS) $(ARGS)

check: $(WHEEL_STAMP) ## Formatting, lint, types, import floors, spelling, scripts, Dockerfile, lock files
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

chaos: $(WHEEL_STAMP) ## Kill the daemon and cut its power again and again; prove that nothing is lost (ARGS="--cycles 1000")
	PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m proof.chaos $(ARGS)

soak: $(WHEEL_STAMP) ## Run the daemon under load for an hour; prove that nothing grows (ARGS="--minutes 5")
	PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m proof.soak $(ARGS)

wheel: $(DEV_STAMP) ## Build dist/courier_rudderstack_forwarder-*.whl
	rm -rf dist && $(BIN)/hatchling build -t wheel -d dist

image: ## Build the container image; `make image SOURCE=https://…` says in its labels where your copy lives
	docker build -t forwarder:$(VERSION) --build-arg VERSION=$(VERSION) --build-arg SOURCE='$(SOURCE)' \
	  --build-arg REVISION=$$(git rev-parse HEAD) --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
	  --build-arg CREATED=$$(TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd) $(ARGS) .

lock: $(DEV_STAMP) ## Bring requirements/*.txt in step with requirements/*.in; ARGS=--upgrade takes newer releases, too
	cd requirements && for f in run extras build dev; do ../$(LOCK) $(ARGS) $$f.in -o $$f.txt; done

env: $(DEV_STAMP) ## Make the environment that the tests and checks use, in .venv/

node: $(NODE_STAMP) ## Fetch the Node packages that some tests drive (needs npm)

sdks: $(NODE_STAMP) $(SDKS)/go $(SDKS)/helm $(SDKS)/java $(SDKS)/kafka ## Fetch what some tests run: the vendors' SDKs, Kafka, Helm's engine (needs npm, go, mvn)

clean: ## Remove what these targets made, but never data/
	rm -rf $(VENV) dist build .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
	  .hypothesis tests/node/node_modules $(SDKS)
	find forwarder tests -name __pycache__ -type d -prune -exec rm -rf {} +

# $(1): an environment, $(2): what is installed into it. --no-deps: a lock names all that is needed. Left to resolve, pip up
# to 23.2 forgets the pin of a package that another asks for with an extra (`coverage[toml]`), takes the newest, and
# has no hash for it. `pip check` says whether something is missing.
define INSTALL
$(NEED_PYTHON)
@echo "Installing requirements/$(2) into $(1) ..."
@$(PYTHON) -m venv $(1)
@$(1)/bin/python $(PIP) install --progress-bar off $(LOCKED) -r requirements/$(2) | { n=0; while read -r word name _; do \
  case $$word in Collecting|Processing) n=$$((n + 1)); echo "  $$n $${name##*/}" ;; Installing) echo "  unpacking ..." ;; esac; done; }
@$(1)/bin/python $(PIP) check
endef

$(RUN_STAMP): requirements/run.txt
	$(call INSTALL,$(RUN_VENV),run.txt)
	@touch $@

# And a pip of the kind that forgets pins, with which a test installs.
$(DEV_STAMP): requirements/dev.txt requirements/pip.txt
	$(call INSTALL,$(VENV),dev.txt)
	@$(BIN)/python $(PIP) download --quiet $(LOCKED) -r requirements/pip.txt -d $(VENV)/pip
	@touch $@

# --no-index: nothing but this wheel can be meant.
$(WHEEL_STAMP): $(DEV_STAMP) $(SOURCES)
	rm -rf $(VENV)/dist
	$(BIN)/hatchling build -t wheel -d $(VENV)/dist
	$(BIN)/python $(PIP) install --quiet --no-deps --no-index --force-reinstall $(VENV)/dist/$(WHEEL)
	$(BIN)/python $(PIP) check
	@touch $@

$(NODE_STAMP): tests/node/package-lock.json
	cd tests/node && npm ci --no-audit --no-fund --ignore-scripts
	@touch $@

# go.sum holds the modules' hashes.
$(SDKS)/go $(SDKS)/helm: $(SDKS)/%: tests/sdks/%/main.go tests/sdks/%/go.mod tests/sdks/%/go.sum
	@echo "Building $* ..."
	cd tests/sdks/$* && CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" go build -trimpath -o ../.built/$* .

$(SDKS)/java: tests/sdks/java/pom.xml tests/sdks/java/sha256sums $(wildcard tests/sdks/java/*.java)
	@echo "Fetching and building the Java SDKs ..."
	rm -rf $@ $(SDKS)/jars
	mvn --quiet --batch-mode -Dstyle.color=never --strict-checksums --file tests/sdks/java/pom.xml \
	  org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DoutputDirectory=$(CURDIR)/$(SDKS)/jars
	cd $(SDKS)/jars && sha256sum --check --strict --quiet ../../java/sha256sums && test $$(ls | wc -l) = $$(wc -l <../../java/sha256sums)
	javac -cp '$(SDKS)/jars/*' -d $@ tests/sdks/java/*.java

# Whole or not there: it is moved to its place when its sums are right.
$(SDKS)/kafka: tests/sdks/kafka/pom.xml tests/sdks/kafka/sha256sums
	@echo "Fetching Kafka (43 MB) ..."
	rm -rf $@ $@.part
	mvn --quiet --batch-mode -Dstyle.color=never --strict-checksums --file tests/sdks/kafka/pom.xml \
	  org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DoutputDirectory=$(CURDIR)/$@.part
	cd $@.part && sha256sum --check --strict --quiet ../../kafka/sha256sums && test $$(ls | wc -l) = $$(wc -l <../../kafka/sha256sums)
	mv $@.part $@
