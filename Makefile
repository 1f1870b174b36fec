# One command each. Everything runs in .venv, made on first use; pip and venv only, so that torch stays the CPU build.
PYTHON ?= python3
PROMPT ?= a red fox
OUT ?= out.png
# That of the first picture of docs/images/sheet.jpg, a sheet that nobody selected.
SEED ?= 32
BIN := .venv/bin
# A quarter of the modules is ever imported, and compiled then: compiling all would take as long as installing them.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
export PYTHONDONTWRITEBYTECODE :=
# Of npm, for the tests: the compiler that checks the page's types, and a client of the server.
NODE_PACKAGES := typescript@5.9.3 ai@6.0.326 @ai-sdk/openai-compatible@2.0.92
PINNED := --constraint constraints.txt --build-constraint constraints.txt

.PHONY: help image lab test lint style types layers page-types node browser docs clean
.DELETE_ON_ERROR:

help:  ## Say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

image: .venv/installed  ## Write OUT from PROMPT with the shipped model
	$(BIN)/diffuscope generate "$(PROMPT)" --seed $(SEED) --out "$(OUT)"

lab: .venv/served  ## Open the lab: a page in which one sees through the shipped model
	$(BIN)/diffuscope lab

test:  ## Everything that CI runs
	$(MAKE) --no-print-directory -j 3 .venv/tested lint browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --reruns 1 -raR

lint: style types layers page-types  ## Static part: format, lint, types, layers

style: .venv/linted
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/linted
	$(BIN)/mypy

layers: .venv/linted
	$(BIN)/lint-imports

page-types: node  # of the lab's modules, from their comments
	@if command -v npm >/dev/null; then .venv/node/node_modules/.bin/tsc --project src/diffuscope/lab/jsconfig.json; \
	else echo "no npm here: the types of the lab's page are not checked"; fi

node:  # what the tests need of npm, where there is npm
	@! command -v npm >/dev/null || echo "$(NODE_PACKAGES)" | cmp -s - .venv/node/installed \
	|| { npm install --silent --no-fund --no-audit --save-exact --prefix .venv/node $(NODE_PACKAGES) && echo "$(NODE_PACKAGES)" > .venv/node/installed; }

browser:  # for the tests of the lab's page; elsewhere than on Debian, install Chromium yourself
	@command -v chromium >/dev/null || (apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium) \
	|| echo "no Chromium here: the tests of the lab's page will say so"

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

.venv/served: .venv/installed
	$(PIP) $(PINNED) --editable ".[server]"
	touch $@

# Less than the tests need, so that types are checked by one core while the other installs the rest.
.venv/linted: .venv/installed
	$(PIP) $(PINNED) --editable ".[server,hub,data]" --group lint
	touch $@

.venv/tested: .venv/linted
	$(PIP) $(PINNED) --group test
	$(PIP) $(PINNED) --no-deps k-diffusion
	touch $@

.venv/documented: .venv/installed
	$(PIP) $(PINNED) --group docs
	touch $@
