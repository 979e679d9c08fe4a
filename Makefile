# The table of contents. Every target makes .venv first if it is missing or outdated.
PYTHON ?= python3.11
RUN := .venv/bin
export PYTHON

.PHONY: help venv demo test lint integration storm bench clean

help:       ## this list
	@sed -n 's/^\([a-z]*\):.*##/  make \1\t/p' Makefile

venv:       ## make or update .venv
	@infra/install.sh

demo: venv  ## keep a small language model up to date, on text that this installation already has
	$(RUN)/perennial demo $(DEMO_ARGS)

test: venv  ## the tests: no root, no network, under 10 minutes on two cores
	$(RUN)/pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: venv  ## exactly what CI runs: format, lint, types, import contracts
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/pyright
	$(RUN)/lint-imports

integration: venv  ## the tests on real servers, which it installs (as root, on Debian) and starts
	tests/integration/install.sh
	$(RUN)/pytest -m "integration and not long" tests/integration $(PYTEST_ARGS)

storm: venv  ## kills and lost machines, at random moments, for many minutes; not part of CI
	tests/integration/install.sh
	$(RUN)/pytest -m long $(PYTEST_ARGS)

bench: venv ## timings against peers, interleaved; not part of the tests
	@for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(RUN)/python "$$bench" || exit 1; done
	$(RUN)/python -m tests.benchmarks.throughput

clean:      ## remove caches and build output; .venv stays
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
