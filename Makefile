# Two commands do everything on a machine that has Python 3.11+, make and git:
#   make demo            all stages (recipes/tiny.toml)
#   make test            the tests
#   make demo-embedding  the same for a sentence encoder (recipes/embedding.toml)
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Two workers with one thread each: on two cores, more threads wait for each other.
PYTEST ?= OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help demo demo-embedding test test-interop stress lint bench clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "EdgeDistil needs Python 3.11 or newer; this is %d.%d. Name another one: make PYTHON=python3.12 …" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/edgedistil run recipes/tiny.toml

demo-embedding: $(VENV)/.ready
	$(BIN)/edgedistil run recipes/embedding.toml

test: $(VENV)/.ready
	bash scripts/install-test-tools.sh
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/interop

#   make test-interop    exported folders in optimum, sentence-transformers and transformers.js
test-interop: $(VENV)/.ready
	bash scripts/install-test-tools.sh node:nodejs npm:npm
	$(PYTEST) tests/interop

#   make stress          all hostile inputs and 66 kills, half an hour; SEED=2 gives others
SEED ?= 1
stress: $(VENV)/.ready
	$(BIN)/python -m tests.stress --seed $(SEED) --kills 66

#   make lint            ruff and mypy
lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

#   make bench           the benchmarks that need only this machine; results in benchmarks/results
BENCHMARKS := corpus_throughput plan_accuracy export_self
bench: $(VENV)/.ready
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
