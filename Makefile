# One command each. Everything runs in .venv, made on first use; pip and venv only, so that torch stays the CPU build.
PYTHON ?= python3
PROMPT ?= a red fox
OUT ?= out.png
# That of the first picture of docs/images/sheet.jpg, a sheet that nobody selected.
SEED ?= 32
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PINNED := --constraint constraints.txt --build-constraint constraints.txt

.PHONY: help image test lint docs clean
.DELETE_ON_ERROR:

help:  ## Say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

image: .venv/installed  ## Write OUT from PROMPT with the shipped model
	$(BIN)/diffuscope generate "$(PROMPT)" --seed $(SEED) --out "$(OUT)"

test: lint  ## Everything that CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: .venv/tested  ## Static part: format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/documented  ## The documentation as HTML in docs/_build/html
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --jobs 2 docs docs/_build/html
	@echo "open docs/_build/html/index.html"

clean:  ## Remove what was made here, .venv too
	rm -rf .venv build dist docs/_build docs/_extra docs/reference/generated

.venv/pip:
	@echo "installing into .venv: once, some minutes, about 1 GB with the CPU build of torch"
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade "pip>=26.0"
	touch $@

.venv/installed: .venv/pip pyproject.toml constraints.txt
	$(PIP) $(PINNED) --editable .
	touch $@

.venv/tested: .venv/installed
	$(PIP) $(PINNED) --group lint --group test
	$(PIP) $(PINNED) --no-deps k-diffusion
	touch $@

.venv/documented: .venv/installed
	$(PIP) $(PINNED) --group docs
	touch $@
