# `make demo` and `make test` set up .venv when it is missing; the second call starts at once.

PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint check format clean

demo: .venv/main.done
	$(BIN)/python -m examples.demo

test: .venv/dev.done
	$(BIN)/python -m pytest

lint: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/python -m pytest -m "not slow"

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
