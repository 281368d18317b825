# Everything a newcomer needs: `make run`, `make test`, `make demo`. Only Python and make required
# (but for `make bench`).

PYTHON ?= python3
VENV := .venv
SOURCES := $(shell find goproxyai twisted -name '*.py') pyproject.toml setup.py

FUZZ_SECONDS ?= 30

.PHONY: run test demo bench soak fuzz audit build clean

## Set up, then serve on :8080 (environment variables configure it, see README.md).
run: $(VENV)/.installed
	exec $(VENV)/bin/twistd --nodaemon --pidfile= goproxyai

## Set up, then run every check that CI runs.
test: $(VENV)/.tox
	$(VENV)/bin/tox run-parallel --parallel auto

## The daemon between the official client and a fake OpenAI server; needs no network.
demo: $(VENV)/.demo
	$(VENV)/bin/python -m examples.demo

## Compare with other proxies and write docs/performance.md; QUICK=1 takes under two minutes.
## Needs the programs that bench/install.sh installs on Debian.
bench: $(VENV)/.installed
	$(VENV)/bin/python -m bench $(if $(QUICK),--quick)

## Load with injected faults for SECONDS, drawn from SEED, and a report: see docs/reliability.md.
SECONDS ?= 600
SEED ?= 1
soak: $(VENV)/.demo
	$(VENV)/bin/python -m tests.soak --seconds $(SECONDS) --seed $(SEED)

## Fuzz all code that parses untrusted bytes, FUZZ_SECONDS for each target.
fuzz: $(VENV)/.fuzz
	$(VENV)/bin/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(TARGETS)

## Ask the advisory databases about everything that is installed along; needs the network.
audit: $(VENV)/.tox
	$(VENV)/bin/tox run -e audit

## A wheel in dist/.
build: $(VENV)/.tox
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) .tox .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip

$(VENV)/.installed: $(VENV)/bin/pip $(SOURCES)
	$(VENV)/bin/pip install --quiet .
	touch $@

$(VENV)/.tox: $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet 'tox>=4.22'
	touch $@

$(VENV)/.demo: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --group test
	touch $@

# If atheris has no wheel for this Python, the fuzzers run with Hypothesis only.
$(VENV)/.fuzz: $(VENV)/.demo
	-$(VENV)/bin/pip install --quiet --only-binary atheris --group fuzz 2>/dev/null
	touch $@
