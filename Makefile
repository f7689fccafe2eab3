# `make book` and `make test` work as the first command in a fresh clone; they need Python 3.11 or newer with pip.
# PYTHON=python3.12 chooses the interpreter, PROFILE=gpu the size of the notebook runs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book test test-browser lab clean env fetch notebooks pages lint

PYTHON ?= python3
PROFILE ?= smoke
BIN := .venv/bin
INSTALLED := .venv/.installed
# keep byte code, whatever the environment says: much of the tests is imports
export PYTHONDONTWRITEBYTECODE :=

# $(call timed,NAME,COMMAND): say what starts, run it, say how long it took
timed = @echo "== $(1)"; begin=$$SECONDS; code=0; ( $(2) ) || code=$$?; \
	if [ $$code = 0 ]; then echo "== $(1): $$((SECONDS - begin)) s"; else echo "== $(1): FAILED after $$((SECONDS - begin)) s"; exit $$code; fi

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

book: fetch notebooks pages ## build the book into _build/html (about a quarter of an hour the first time, seconds later)
	@echo "the book is here: file://$(CURDIR)/_build/html/index.html"

test: lint fetch ## lint, unit and golden tests, notebooks with their bands, checks of the pages
	$(call timed,unit tests,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not notebooks and not browser")
	$(call timed,notebooks and pages,PROFILE=smoke $(BIN)/python -m pytest -m notebooks)

test-browser: book ## the pages in a real browser, network off: widgets, players, contrast, phones (needs Chromium)
	$(call timed,browser,$(BIN)/python -m pytest -m browser tests/test_browser.py)

lab: env ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

clean: ## remove what was built (not the environment, not the downloads)
	rm -rf _build results/smoke .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

env: $(INSTALLED)

# One set of packages for every target, so that the second command has nothing to install. torch is named first: when
# pip can reach a CPU build of exactly this version it takes that one, which is a tenth of the size.
$(INSTALLED): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, e.g. make PYTHON=python3.12 book" if sys.version_info < (3, 11) else 0)'
	$(call timed,environment,$(PYTHON) -m venv .venv && $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $$(grep -m1 '^torch==' constraints.txt) -c constraints.txt -e '.[test]')
	@touch $@

fetch: env
	$(call timed,assets,$(BIN)/taste-min fetch)

notebooks: env
	$(call timed,notebooks,$(BIN)/python tools/execute.py --profile $(PROFILE) --jobs 2)

pages: env
	$(call timed,pages,$(BIN)/python tools/build_html.py)

lint: env
	$(call timed,lint,$(BIN)/ruff check . && $(BIN)/ruff format --check .)
