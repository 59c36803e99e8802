# Everything runs out of .venv, which is made from requirements/*.lock with nothing but Python's own venv and pip.
PYTHON ?= python3
DOCKER ?= docker
BASE_IMAGE ?= python:3.13-slim-trixie
NATS_IMAGE ?= nats:2.15-alpine
# What the image holds: `runtime`, or `otel` for traces as well.
LOCK ?= runtime
BIN := .venv/bin
# Tests wait more than they compute: four at a time for each of two cores. Each process of pytest has servers of its own, and
# takes four seconds of a core to import and collect the tests.
SIDE_BY_SIDE ?= 8
# Quiet twice: pip's warnings are about its own configuration, and errors still show. The locks are complete: nothing is resolved.
PIP := $(BIN)/python -m pip install -qq --no-compile --no-build-isolation --no-deps
UV := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock'

# Python keeps what it has compiled, wherever this runs: without, each process of the tests compiles all that it imports anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test tests test-containers coverage check schemas docs site bench scale count chaos soak fuzz chart chart-docs cluster image version wheel lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: .venv/.project ## see it work: a NATS server, a simulated provider and a worker, all on this machine
	@$(BIN)/aichats-worker demo

test: .venv/.project ## format, lint, types and all tests, side by side
	@$(MAKE) --no-print-directory -j 2 check tests

tests: .venv/.project
	$(BIN)/pytest -n $(SIDE_BY_SIDE) --dist loadgroup $(ARGS)

coverage: .venv/.project ## all tests once more, and which lines they leave out: with twice the CPU, so no part of `make test`
	$(BIN)/pytest -n $(SIDE_BY_SIDE) --dist loadgroup --cov --cov-report=term-missing:skip-covered $(ARGS)

test-containers: .venv/.project ## the end-to-end tests once more, against the image and NATS in containers (needs Docker, on Linux)
	@$(DOCKER) version >/dev/null 2>&1 \
	|| { echo "make test-containers needs Docker, and \"$(DOCKER) version\" says there is none: start it, or name its command with DOCKER=..."; exit 1; }
	@$(MAKE) --no-print-directory image
	$(BIN)/pytest --nats=container --worker=container --nats-image=$(NATS_IMAGE) $(ARGS)

check: .venv/.project ## format, lint and types alone
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

schemas: .venv/.project ## write the JSON Schemas of requests and events
	$(BIN)/python -m aichats_schemas schemas/aichats_schemas/json

docs: .venv/.project ## write the pages of docs that are made from the code
	$(BIN)/python -m tests.documents.written
	$(BIN)/aichats-worker docs > docs/asyncapi.yaml

site: .venv-site/.dependencies ## build the documents as a site, build/site; ARGS=serve shows it on 127.0.0.1:8000 while you write
	NO_MKDOCS_2_WARNING=true .venv-site/bin/mkdocs $(or $(ARGS),build) --strict

bench: .venv/.project ## the worker beside hand-written ones in one run, written into docs/performance.md
	$(BIN)/python -m benchmarks.comparing $(ARGS)

scale: .venv/.project ## how the cost grows with streams, history, images, workers and tenants, written into docs/scaling.md
	$(BIN)/python -m benchmarks.scaling $(ARGS)

count: .venv/.project ## instructions for each delta, request, image and job, against those that are kept (needs valgrind)
	$(BIN)/python -m benchmarks.instructions $(ARGS)

chaos: .venv/.project ## three brokers, four workers, 2000 jobs, faults of all kinds, judged job by job; ARGS="--seed 7" runs a plan again
	$(BIN)/python -m benchmarks.chaos $(ARGS)

soak: .venv/.project ## 200 streams for 5 minutes, faults of all kinds among them: nothing may grow; ARGS="--seconds 3600" for longer
	$(BIN)/python -m benchmarks.soak $(ARGS)

fuzz: .venv/.project ## 10,000 generated provider answers for each property, and 10,000 bad requests
	$(BIN)/pytest -q -m fuzz --hypothesis-profile=fuzz --timeout 1800 $(ARGS)

chart: .venv/.chart .venv-checkov/.dependencies ## lint and test the chart, the Dockerfile and the workflows (needs helm)
	$(BIN)/hadolint Dockerfile
	$(BIN)/pytest tests/chart $(ARGS)

chart-docs: .venv/.project ## write the chart's tables and schema of settings
	$(BIN)/python -m tests.chart.written

cluster: .venv/.project ## install, upgrade under load, evict and uninstall on the cluster of K8S_TEST_KUBECONFIG
	$(BIN)/pytest tests/cluster $(ARGS)

image: ## build the container image, aichats-worker (needs Docker with BuildKit)
	@DOCKER_BUILDKIT=1 $(DOCKER) build --help >/dev/null 2>&1 \
	|| { echo "make image needs Docker with BuildKit, and \"$(DOCKER) build\" says it has none: install its buildx plugin (docker-buildx), or name another command with DOCKER=..."; exit 1; }
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag aichats-worker --build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg LOCK=$(LOCK) --build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg VERSION=$$($(MAKE) --silent version) .

version: ## print the version, which aichats_schemas/__init__.py alone has
	@sed -n 's/^__version__ = "\(.*\)"/\1/p' schemas/aichats_schemas/__init__.py

wheel: .venv/.project ## build the wheel and the source distribution into dist/
	@$(BIN)/python -m hatchling build -d dist

lock: .venv/.dependencies ## pin all dependencies anew; with ARGS=--upgrade to their newest releases
	$(BIN)/python -m pip install -qq uv==0.13.9
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "setuptools", sep="\n")' \
	| $(UV) $(ARGS) -o requirements/build.lock -
	$(UV) $(ARGS) -o requirements/runtime.lock --extra worker --extra fast pyproject.toml
	$(UV) $(ARGS) -o requirements/otel.lock -c requirements/runtime.lock --extra otel pyproject.toml
	$(UV) $(ARGS) -o requirements/dev.lock -c requirements/runtime.lock --extra demo --extra fast --extra otel --group dev pyproject.toml
	$(UV) $(ARGS) -o requirements/chart.lock -c requirements/dev.lock requirements/chart.in
	$(UV) $(ARGS) -o requirements/checkov.lock requirements/checkov.in
	$(UV) $(ARGS) -o requirements/site.lock requirements/site.in

clean: ## remove everything that the other targets made
	rm -rf .venv .venv-checkov .venv-site .tools build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.project: .venv/.dependencies pyproject.toml
	@$(PIP) -e .
	@touch $@

.venv/.chart: .venv/.project requirements/chart.lock
	@$(PIP) --require-hashes -r requirements/chart.lock
	@touch $@

# Environments of their own: what these pin, others have newer, or do not need.
.venv-%/.dependencies: .venv/.dependencies requirements/%.lock
	@$(PYTHON) -m venv --clear .venv-$*
	@$(PIP:$(BIN)%=.venv-$*/bin%) --require-hashes -r requirements/build.lock
	@$(PIP:$(BIN)%=.venv-$*/bin%) --require-hashes -r requirements/$*.lock
	@touch $@

# The build backend comes first and pinned: neither a dependency without a wheel nor the project itself fetches another.
.venv/.dependencies: requirements/build.lock requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	|| { echo "Python 3.11 or newer is needed, and $(PYTHON) is not: name one with make PYTHON=/path/to/python3."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	|| { echo "$(PYTHON) has no venv module: on Debian and Ubuntu, apt-get install python3-venv brings it."; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) --require-hashes -r requirements/build.lock
	@$(PIP) --require-hashes -r requirements/dev.lock
	@touch $@
