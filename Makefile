# Every target sets up .venv by itself. `make study PRESET=smoke ARGS="-p seeds 3"`
PYTHON ?= python3
PRESET ?= organism
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check

.PHONY: help setup study figures compare publish report site tune sweep sensitivity bench test test-slow \
  test-browser lint lab

help:
	@echo "make study [PRESET=organism] [ARGS='-p NAME VALUE']  train, evaluate, draw every figure"
	@echo "make figures   redraw the figures from committed tables, without training [ARGS='--only NAME']"
	@echo "make compare   hold the last run against the committed results"
	@echo "make publish   replace the committed results by the last run"
	@echo "make report    write the account and every figure of a preset into one HTML file"
	@echo "make site      render all committed results as a static site, to be read without a network"
	@echo "make tune      choose the learning rates that are lacking (one common grid, development seeds)"
	@echo "make sweep PRESET=hybrids [ARGS='-p seeds 2']  train each hybrid over the values of the number that matters in it"
	@echo "make sensitivity PRESET=confirmatory [ARGS='--axis hidden_size']  decide the claims again with one parameter changed"
	@echo "make bench [PARTS='steps curves scaling study']  time a GRPO step beside TRL's, and the study"
	@echo "make lab       open JupyterLab        make setup   only create .venv"
	@echo "make test      run the tests          make lint    run ruff"
	@echo "make test-slow run those that take minutes: faults, repetitions, simulations"
	@echo "make test-browser   run those of the site and of explore.ipynb, in Chromium"

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(None if ok else \
	  'Python 3.11, 3.12 or 3.13 is needed, this is ' + sys.version.split()[0] + ': make setup PYTHON=python3.12')"
	@echo "installing into .venv (once; some minutes)"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --requirement requirements.lock
	@$(PIP) install --no-deps --editable .
	@touch $@

study figures compare publish report site tune sweep sensitivity: setup
	@$(BIN)/python -m hybridlib $@ $(PRESET) $(ARGS)

bench: setup
	@$(BIN)/python -m hybridlib bench $(PARTS)

lab: setup
	$(BIN)/jupyter lab --notebook-dir=notebooks

test: setup
	$(BIN)/python -m pytest $(ARGS)

test-slow: setup
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-browser: setup
	@$(BIN)/python -m pytest -m browser $(ARGS)

lint: setup
	$(BIN)/ruff check .
