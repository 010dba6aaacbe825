# Every target sets up .venv by itself. `make study PRESET=smoke ARGS="-p seeds 3"`
PYTHON ?= python3
PRESET ?= organism
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
# One process a core, at most four; each with one thread, or they slow one another down.
CORES = $(shell $(BIN)/python -c "from hybridlib.store.environment import cores; print(min(4, cores()))")

.PHONY: help setup study params figures compare publish merge docs site tune sweep bench lab \
  test test-slow test-browser lint

help:
	@echo "make study [PRESET=organism] [ARGS='-p NAME VALUE']   train, evaluate, draw every figure"
	@echo "make params [PRESET=organism]   list the parameters: value, range, meaning"
	@echo "make compare   compare the last run with the committed results"
	@echo "make figures   redraw the figures from the committed tables [ARGS='--only NAME']"
	@echo "make publish   replace the committed results with the last run"
	@echo "make merge PRESET=population [ARGS='PLACE ...']   bring in replicates of other machines"
	@echo "make docs      write the tables in docs/ again from the committed results"
	@echo "make site      build all committed results as a static site"
	@echo "make lab       open JupyterLab"
	@echo "make tune      choose the learning rates that are missing, on development replicates"
	@echo "make sweep PRESET=hybrids   train each hybrid over the values of its main parameter"
	@echo "make bench [PARTS='steps curves scaling study']   time a GRPO step against TRL's"
	@echo "make test      run the tests; test-slow and test-browser run those that it leaves out"
	@echo "make lint      check style and the direction of imports"
	@echo "make setup     only create .venv"

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(None if ok else \
	  'Python 3.11, 3.12 or 3.13 is needed, this is ' + sys.version.split()[0] + ': make setup PYTHON=python3.12')"
	@echo "installing into .venv (once; some minutes)"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --requirement requirements.lock
	@$(PIP) install --no-deps --editable .
	@touch $@

study params figures compare publish merge tune sweep: setup
	@$(BIN)/python -m hybridlib $@ $(PRESET) $(ARGS)

docs site: setup
	@$(BIN)/python -m hybridlib $@

bench: setup
	@$(BIN)/python -m hybridlib bench $(PARTS)

lab: setup
	$(BIN)/jupyter lab --notebook-dir=notebooks

test: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist loadfile $(ARGS)

test-slow: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist loadfile -m slow $(ARGS)

test-browser: setup
	@$(BIN)/python -m pytest -m browser $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check hybridlib tests bench
	$(BIN)/lint-imports
