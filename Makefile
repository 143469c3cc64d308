# demo: the whole road on the simulated music service     test, slow: the tests     check: format, lint, types, rooms
# bench: speed                                            Another Python: make PYTHON=python3.12 demo
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DELETE_ON_ERROR:
.PHONY: demo test slow check bench

demo: .venv/.demo-stamp
	$(BIN)/weft demo

# Files of tests side by side, one core each.
test: .venv/.dev-stamp
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow"

# pytest ends with 5 when no test is marked slow: that is no failure, and it is said.
slow: .venv/.dev-stamp
	@$(BIN)/pytest -m slow; code=$$?; \
	if [ $$code -eq 5 ]; then echo "make slow: no test is marked slow, nothing was run"; exit 0; fi; exit $$code

check: .venv/.dev-stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Hours: it goes on where it was interrupted. benchmarks/peers/setup.sh installs the libraries that it measures beside weft.
bench: .venv/.dev-stamp
	$(BIN)/python benchmarks/run.py

.venv/.demo-stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

.venv/.dev-stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[dev]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("weft needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
