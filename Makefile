# Requires Python 3.11 or newer and make. Everything is installed into .venv.
# `make` without a target prints the help below.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PIP_INSTALL := install --quiet --disable-pip-version-check --no-compile --no-deps --requirement

# Parameters of single targets, such as `make soak SECONDS=60`.
FUZZ_SECONDS ?= 30
SECONDS ?= 600
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help run demo test unit lint format types docs bench soak fuzz audit lock build clean

help: ## Print this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## Serve on port 8080; environment variables configure it
	exec $(BIN)/python -m goproxyai run

demo: $(VENV)/$(if $(ONCE),.dev,.installed) ## Serve made-up traffic until Ctrl-C; ONCE=1 runs the official client once
	exec $(BIN)/python -m goproxyai demo$(if $(ONCE), --once)

test: $(VENV)/.tox ## Run every check that CI runs, on every installed Python version
	# One more than there are processors: some of the tests wait half of the time.
	$(BIN)/tox run-parallel --parallel $$(($$(nproc) + 1))

unit: $(VENV)/.dev ## Run the unit tests (about a minute)
	$(BIN)/python -m pytest -q tests/unit tests/project

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev ## Format the code and apply safe lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

docs: $(VENV)/.dev ## Build the documentation site in build/docs
	$(BIN)/sphinx-build -q -W --keep-going -n -b html docs build/docs

bench: $(VENV)/.installed ## Measure and rewrite docs/explanation/performance.md; QUICK=1 is short; see bench/install.sh
	$(BIN)/python -m bench $(if $(QUICK),--quick)

soak: $(VENV)/.dev ## Run load with injected faults for SECONDS=600, with SEED=1
	$(BIN)/python -m tests.soak --seconds $(SECONDS) --seed $(SEED)

fuzz: $(VENV)/.fuzz ## Fuzz the parsers, FUZZ_SECONDS=30 for each target; TARGETS=requests selects
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(TARGETS)

audit: $(VENV)/.tox ## Look for known vulnerabilities in the dependencies; needs the network
	$(BIN)/tox run -e audit

lock: $(BIN)/pip ## Update the lock files to the newest allowed versions; needs the network
	$(BIN)/pip install --quiet uv
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --upgrade --universal \
		--python-version 3.11 --extra otel --group dev --output-file requirements-dev.lock pyproject.toml
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --upgrade --universal \
		--python-version 3.11 --group packaging --group examples \
		--constraint requirements-dev.lock --output-file requirements-extra.lock pyproject.toml
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --upgrade --universal \
		--python-version 3.11 --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml

build: $(BIN)/pip ## Build a wheel in dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove everything that the other targets create
	rm -rf $(VENV) .tox .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required: make PYTHON=...")'
	@$(PYTHON) -m venv --without-pip $(VENV)

$(BIN)/pip: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)

# For users: what the package requires. The package itself is imported from the checkout. Creating pip
# in .venv, building a wheel and compiling all modules would take three times as long.
# uv takes a tenth of the time. A Python without pip, or with pip before 22.3, creates pip.
$(VENV)/.installed: requirements.lock | $(BIN)/python
	@echo "Installing requirements.lock into $(VENV), once; this takes up to a minute"
	@uv pip install --quiet --python $(BIN)/python --requirement $< 2>/dev/null \
		|| $(PYTHON) -m pip --python $(BIN)/python $(PIP_INSTALL) $< 2>/dev/null \
		|| { $(PYTHON) -m venv $(VENV) && $(BIN)/pip $(PIP_INSTALL) $<; }
	@touch $@

# The development environment; the package itself is imported from the checkout.
$(VENV)/.dev: $(BIN)/pip requirements-dev.lock
	$(BIN)/pip install --quiet --requirement requirements-dev.lock
	touch $@

$(VENV)/.tox: $(BIN)/pip requirements-dev.lock
	$(BIN)/pip install --quiet --constraint requirements-dev.lock tox tox-uv
	touch $@

# atheris has wheels for some Python versions only; the fuzzers work without it.
$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/pip install --quiet --upgrade pip  # for --group
	-$(BIN)/pip install --quiet --only-binary atheris --group fuzz 2>/dev/null
	touch $@
