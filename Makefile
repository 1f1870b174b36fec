# One command each. Everything runs in .venv, made on first use; pip and venv only, so that torch stays the CPU build.
PYTHON ?= python3
PROMPT ?= a red fox
OUT ?= out.png
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: image test lint docs clean
.DELETE_ON_ERROR:

image: .venv/installed  ## Write OUT from PROMPT with the shipped model
	$(BIN)/diffuscope generate "$(PROMPT)" --out "$(OUT)"

test: .venv/tested lint  ## Everything that CI runs
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

lint: .venv/tested  ## Static part: format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/pip:
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade "pip>=25.1"
	touch $@

.venv/installed: .venv/pip pyproject.toml constraints.txt
	$(PIP) --constraint constraints.txt --editable .
	touch $@

.venv/tested: .venv/installed
	$(PIP) --constraint constraints.txt --group lint --group test
	touch $@

clean:
	rm -rf .venv build dist docs/_build
