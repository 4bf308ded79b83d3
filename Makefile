# PYTHON: any of 3.10 to 3.13; another one is replaced by one of these from PATH.
PYTHON ?= python3
VENV ?= .venv
# A nuScenes-schema folder for `make demo`; without it the synthetic world is used.
DATA ?=
PYTEST_ARGS ?=
# Test processes side by side; 0: one after another in a single one.
PYTEST_WORKERS ?= 2

RUN = $(VENV)/bin/python

.PHONY: help setup demo test lint bench clean
.DEFAULT_GOAL := help

help:
	@echo "make setup              $(VENV) with everything (quick when nothing changed)"
	@echo "make demo [DATA=...]    bag -> replay -> node -> recorder; results in out/demo"
	@echo "make test               all tests"
	@echo "make lint               ruff: rules and format"
	@echo "make bench              measured speeds"
	@echo "make clean              remove build products, caches and out/; keeps $(VENV)"

setup:
	@command -v $(PYTHON) >/dev/null || { echo "no '$(PYTHON)' on PATH: make setup PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m gsrender_ros.tools.setup_environment $(VENV)

demo: setup
	$(RUN) -m gsrender_ros.demo $(if $(DATA),--data "$(DATA)") --out out/demo

# Tests start dozens of processes: each would compile the package anew where bytecode is not written.
test: export PYTHONDONTWRITEBYTECODE =
# A thread for each of the processes side by side; tests of threads ask for two themselves.
test: export OMP_NUM_THREADS ?= 1
test: setup
	$(RUN) -m pytest -n $(PYTEST_WORKERS) --dist loadgroup $(PYTEST_ARGS)

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: setup
	$(RUN) -m gsrender_core.bench --out out/bench.json

clean:
	rm -rf build install log out dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
