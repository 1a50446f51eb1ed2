# The two commands that a newcomer needs are `make demo` and `make test`; each sets up its own environment.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Another interpreter to run the tests on, where there is one: a command on the PATH that works, or pyenv's.
PYTHON_NEXT ?= $(shell for p in python3.13 $$HOME/.pyenv/versions/3.13.*/bin/python3.13; do \
	"$$p" -c "" >/dev/null 2>&1 && { echo "$$p"; break; }; done)
VENV_NEXT := .venv-next
VENV_CLOUD := .venv-cloud
# Tests wait more than they work: two for each core, and at least four.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n > 2 ? 2 * n : 4)))
PYTEST_ARGS ?=
# Versions that are known to work together; another interpreter gets the newest ones.
locked = $(patsubst %,--constraint %,$(wildcard constraints/python$(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt))
# The tests start hundreds of processes: what they import, and their own assertions, are compiled once.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help prepare parts collect-main collect-next demo test test-main test-next lint format docs dashboards stack bench bench-peers bench-draw gate pictures pictures-live attack prometheus postgres chromium grafana chaos sdk-tests ablation soak clean

help:  ## Show the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.PHONY: examples
examples: $(VENV)/.test postgres  ## Run all examples and compare what they print with what they say; downloads 260 MB
	$(BIN)/python -m pip install --quiet --group embeddings
	EXAMPLES=all $(BIN)/python -m pytest -v tests/docs/test_examples.py $(PYTEST_ARGS)

demo: $(VENV)/.demo  ## Run the main job on real data: 2,000 airports through a local HTTP service
	$(BIN)/flowrt demo $(DEMO_ARGS)

test: test-main test-next  ## Run the tests, on Python 3.13 too where it is present

test-main: $(VENV)/.test prometheus postgres chromium grafana
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

test-next: $(if $(PYTHON_NEXT),$(VENV_NEXT)/.test)
	$(if $(PYTHON_NEXT),FLOWRT_SECOND_PYTHON=1 $(VENV_NEXT)/bin/python -m pytest -n $(WORKERS) --dist loadgroup -m "not parts" $(PYTEST_ARGS),@echo "no Python 3.13 here: tested on one version")

prepare: parts $(VENV)/.lint $(if $(PYTHON_NEXT),$(VENV_NEXT)/.test)  # what lint, test and gate need

parts:  # one after the other, since apt-get is for one at a time
	@$(MAKE) --no-print-directory prometheus
	@$(MAKE) --no-print-directory postgres
	@$(MAKE) --no-print-directory chromium
	@$(MAKE) --no-print-directory grafana

.PHONY: bench-ray
bench-ray: $(VENV)/.ray  ## Measure items on a local Ray beside Ray's own ways, in about five minutes; then make bench-draw
	$(BIN)/python -m bench all --ray

.PHONY: demo-ray
demo-ray: $(VENV)/.ray  ## Run the demo's job on a local Ray cluster that loses a node in mid-run
	$(BIN)/python -m tools.demo_ray $(DEMO_ARGS)

.PHONY: test-ray
test-ray: $(VENV)/.ray  ## Run the tests on a local Ray cluster: an 80 MB wheel, and about four minutes
	FLOWRT_RAY=1 $(BIN)/python -m pytest -v --timeout 300 tests/executors/on_ray $(PYTEST_ARGS)

$(VENV)/.ray: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --group ray
	touch $@

.PHONY: test-cloud
test-cloud: $(VENV_CLOUD)/.test  ## Run the command on s3:// and gs:// of local servers: about two minutes
	FLOWRT_CLOUD=1 $(VENV_CLOUD)/bin/python -m pytest -v --timeout 300 tests/cli/on_cloud $(PYTEST_ARGS)

# Each worker would compile the assertions of all tests for itself.
collect-main: $(VENV)/.test
	$(BIN)/python -m pytest --collect-only --quiet >/dev/null

collect-next: $(if $(PYTHON_NEXT),$(VENV_NEXT)/.test)
	$(if $(PYTHON_NEXT),$(VENV_NEXT)/bin/python -m pytest --collect-only --quiet >/dev/null)

lint: $(VENV)/.lint  ## Check form, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.layout
	$(BIN)/python -m dashboards.generator --check
	$(BIN)/python -m dashboards.generator.lint

format: $(VENV)/.lint  ## Put the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: $(VENV)/.test  ## Kill runs, tear journals, fill disks and resume: 200 SIGKILLs, every step, every byte; about ten minutes
	FLOWRT_CHAOS=full FLOWRT_KILLS=$(or $(KILLS),200) $(BIN)/python -m pytest -v tests/chaos tests/journal/test_kills.py tests/journal/test_recovery.py $(PYTEST_ARGS)

sdk-tests: $(VENV)/.test  ## Download the OpenTelemetry SDK's span tests and run them against flowrt's item span
	$(BIN)/python -m tools.sdk_span_tests $(PYTEST_ARGS)

ablation: $(VENV)/.test  ## Remove one safeguard at a time and check that its test fails
	$(BIN)/python -m tests.ablation $(ABLATION_ARGS)

soak: $(VENV)/.bench  ## A million items with everything on: memory, descriptors, tasks, speed; about six minutes
	$(BIN)/python -m bench.soak $(SOAK_ARGS)

docs: $(VENV)/.test  ## Fill the generated tables of the documentation
	$(BIN)/python -m tools.fill_docs

.PHONY: docs-site
docs-site: $(VENV)/bin/python  ## Build the documentation as a site into site/, strictly and without the network
	$(BIN)/python -m pip install --quiet --group site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: lock release-check audit
lock: $(VENV)/bin/python  ## Pin the newest versions of the packages that the tests install, for each Python
	$(BIN)/python -m tools.lock
	$(if $(PYTHON_NEXT),$(PYTHON_NEXT) -m tools.lock)

release-check: $(VENV)/.test  ## Build wheel and sdist, install them in clean environments on each Python, and use them
	$(BIN)/python -m tools.release_check

audit: $(VENV)/.lint  ## Look for known vulnerabilities in the locked dependencies, and for insecure code; asks a public database
	$(BIN)/python -m pip install --quiet pip-audit bandit
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml flowrt
	$(BIN)/pip-audit --strict --no-deps --disable-pip $(patsubst %,-r %,$(wildcard constraints/*.txt))  # strict: what it cannot look up is no success

stack: $(VENV)/.test prometheus  ## Run a demo with Prometheus, these rules and Alertmanager, until Ctrl-C
	@$(BIN)/python -m dashboards.generator.stack $(STACK_ARGS)

dashboards: $(VENV)/.lint  ## Write the generated dashboards, rules and provisioning files
	$(BIN)/python -m dashboards.generator

bench: $(VENV)/.bench  ## Measure the suites of the README and bench/RESULTS.md, in about 30 minutes; then make bench-draw
	$(BIN)/python -m bench all

bench-more: $(VENV)/.bench  ## Measure the rest: more workloads, forecasts, reports
	$(BIN)/python -m bench all --more

bench-peers: $(VENV)/.bench  ## Measure the peers, each in an environment of its own, in nearly two hours
	$(BIN)/python -m bench all --peers

.PHONY: bench-pythons
bench-pythons:  ## Measure the README's workload on Python 3.12 and 3.13, where they are, in five minutes; then make bench-draw
	@set -e; for version in 3.12 3.13; do \
		for python in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python$$version; do \
			"$$python" -c "" >/dev/null 2>&1 || continue; \
			"$$python" -m venv .venv-bench-$$version; \
			.venv-bench-$$version/bin/python -m pip install --quiet --upgrade pip; \
			.venv-bench-$$version/bin/python -m pip install --quiet --editable '.[otlp]' --group bench; \
			.venv-bench-$$version/bin/python -m bench run overhead noop --json bench/results/overhead-$$version.json \
				--arm nadoo --arm flowrt-bare --arm flowrt-metrics --arm flowrt-default --arm flowrt-delivered; \
			break; \
		done; \
	done

bench-draw: $(VENV)/.bench $(VENV)/.test  ## Draw the charts of the results, and write the pages
	$(BIN)/python -m bench draw
	$(BIN)/python -m tools.fill_docs

gate: $(VENV)/.bench  ## Compare the cost of items and batches with the record
	$(BIN)/python -m bench gate

attack: $(VENV)/.test  ## Attack the server of a running batch: 500 slow sockets for a minute
	$(BIN)/python -m tools.attack --sockets 500 --seconds 60

pictures: $(VENV)/.test prometheus chromium grafana  ## Draw the pictures of the dashboards
	$(BIN)/python -m dashboards.generator.pictures

pictures-live: $(VENV)/.test chromium  ## Take the pictures of the live page anew
	$(BIN)/python -m tools.live_pictures

prometheus:  # a real one, for the tests that scrape
	@command -v prometheus >/dev/null && command -v promtool >/dev/null && \
		command -v prometheus-alertmanager >/dev/null || tools/install-servers prometheus prometheus-alertmanager

postgres:  # a real one, for the example that loads it
	@command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || \
		tools/install-servers postgresql

chromium:  # a real one, for the tests of the live page
	@command -v chromium >/dev/null || tools/install-chromium

grafana:  # its components, which draw the dashboards in tests and pictures; kept in the user's cache
	@command -v npm >/dev/null || tools/install-node
	@$(PYTHON) -m dashboards.generator.pictures.components

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml $(wildcard constraints/*.txt) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(call locked,$(BIN)/python) --editable '.[all]' --group test --group browser --group notebook --group bench --group dashboards
	touch $@

$(VENV)/.lint: pyproject.toml $(wildcard constraints/*.txt) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(call locked,$(BIN)/python) --editable '.[all]' --group test --group browser --group notebook --group lint --group bench --group dashboards
	touch $@ $(VENV)/.test $(VENV)/.bench  # it has all that these have

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[otlp]' --group bench
	touch $@

# Most of its modules are never imported; the others are compiled when they first are.
$(VENV_NEXT)/.test: pyproject.toml $(wildcard constraints/*.txt)
	$(PYTHON_NEXT) -m venv $(VENV_NEXT)
	$(VENV_NEXT)/bin/python -m pip install --quiet --no-compile --upgrade pip
	$(VENV_NEXT)/bin/python -m pip install --quiet --no-compile $(call locked,$(PYTHON_NEXT)) --editable '.[all]' --group test --group dashboards
	touch $@

# Without the locked versions, whose python-dateutil is newer than botocore allows.
$(VENV_CLOUD)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV_CLOUD)
	$(VENV_CLOUD)/bin/python -m pip install --quiet --no-compile --upgrade pip
	$(VENV_CLOUD)/bin/python -m pip install --quiet --no-compile --editable '.[cli,parquet,files]' --group cloud
	touch $@

clean:  ## Remove the environments and caches
	rm -rf $(VENV) $(VENV_NEXT) $(VENV_CLOUD) .venv-bench-* .venv-peers .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
