# `make demo` and `make test` set up .venv when it is missing; the second call starts at once.

PYTHON ?= python3
BIN = .venv/bin
# a process a core, each with one thread
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint check format clean

demo: .venv/main.done
	$(BIN)/python -m examples.demo

test: .venv/dev.done
	$(PYTEST) -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(PYTEST) -m "not slow"

format: .venv/dev.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs data/shapes

.venv/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "expected Python 3.11 or newer"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/main.done: .venv/bin/python requirements.txt constraints.txt
	$(INSTALL) -r requirements.txt
	@touch $@

.venv/dev.done: .venv/main.done requirements-dev.txt
	$(INSTALL) -r requirements-dev.txt
	@touch $@
