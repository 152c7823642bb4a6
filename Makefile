# Every target sets up what it needs: a virtual environment in .venv with the pinned packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
# Processes of one thread (tests/conftest.py says how many): the threads of several would wait for each other.
UNIT = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n auto -m "not integration and not slow and not gpu"
# Two processes, since clusters mostly wait; tests/conftest.py keeps those of one cluster together.
CLUSTERS = $(BIN)/pytest tests/integration -n 2 --dist loadfile --no-loadscope-reorder \
	-m "integration and not slow and not gpu"

# A cluster's processes import the same files over and over: only the first one is to compile them.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test unit integration chaos sim fuzz check lint type format docs bench bench-regions bench-peers lock clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## install the pinned packages into .venv (some 4 GB, a few minutes)

$(READY): requirements-cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
		|| { echo "Raygion needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps -r requirements-cpu.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## the whole story on this machine; stays up until Ctrl-C (ARGS=--exit ends by itself)
	@$(BIN)/raygion demo $(ARGS)

test: $(READY)  ## all tests but the slow ones: unit, simulation, integration
	$(UNIT) $(ARGS)
	$(CLUSTERS) $(ARGS)

unit: $(READY)  ## the tests that start no cluster
	$(UNIT) $(ARGS)

integration: $(READY)  ## the tests on real clusters, models and servers, slow ones too
	$(BIN)/pytest tests/integration -m "integration and not gpu" $(ARGS)

chaos: $(READY)  ## break a region under load and count what fails (ARGS=--quick without the language model)
	$(BIN)/python -m tests.chaos.run $(ARGS)

sim: $(READY)  ## simulate regions under faults: SEEDS=2000 as many seeds, SEED=17 one of them with its trace
	@$(BIN)/python -m tests.simulation.run $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000)) \
		$(if $(REGIONS),--regions $(REGIONS)) $(ARGS)

fuzz: $(READY)  ## read damaged files of every kind until one does harm (KIND=.pdf SEED=17 for the same ones again)
	@$(BIN)/python -m tests.fuzz.run $(if $(KIND),--kind $(KIND)) $(if $(SEED),--seed $(SEED)) $(ARGS)

check: $(READY) lint type  ## style, types, layering
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q tests/unit/house/test_layering.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY)
	$(BIN)/mypy

format: $(READY)  ## let ruff put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## write the tables of settings, metrics and events in docs/ anew from the code
	$(BIN)/python -m tests.support.tables_in_docs

bench: $(READY)  ## measure the serving path; writes bench/results/
	$(BIN)/python -m bench.run $(ARGS)

bench-regions: $(READY)  ## three regions on this machine: skew of commits, losses, switches under load
	$(BIN)/python -m bench.regions.run $(ARGS)

bench-peers: $(PEERS)/.ready  ## install what bench compares with into .venv-peers (some 1 GB)

$(PEERS)/.ready: bench/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -r bench/peers.txt
	@touch $@

lock: $(READY)  ## resolve all packages anew into requirements-cpu.lock
	$(BIN)/python packaging/lock.py

clean:  ## remove the virtual environment and the local state
	rm -rf $(VENV) $(PEERS) .raygion
