# Every target makes its own virtual environment in .venv when it is missing, so a clone, python3
# and git are enough: `make test`. Say PYTHON=python3.12 to choose the interpreter, VENV=path to
# use an environment that is there already.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.homotopy-deq-installed
PYTEST ?= $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal --durations=20

.DEFAULT_GOAL := help
.PHONY: help setup demo papers tutorials test test-slow test-cuda bench mutants coverage faults release check format docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv and install the package in it, editable, with the developers' tools

# pip's own output goes to a log, which is shown when the installation fails.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is older than Python 3.10: say make PYTHON=path/to/a/newer/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "$(PYTHON) -m venv failed (on Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing homotopy-deq and its developers' tools in $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' > $(VENV)/install.log 2>&1 \
	  || { tail -n 40 $(VENV)/install.log >&2; echo "the whole log: $(VENV)/install.log" >&2; exit 1; }
	@touch $@

demo: $(STAMP) ## solve, train and plot a small model on the built-in digits
	$(BIN)/python -m experiments.demo

papers: $(STAMP) ## run the experiments of the seven papers in short, and say what holds
	$(BIN)/python -m experiments.papers

test: $(STAMP) ## run the fast tests
	$(PYTEST)

test-slow: $(STAMP) ## run the tests that train, too
	$(PYTEST) -m 'slow or not slow'

test-cuda: $(STAMP) ## test that a GPU gives the CPU's answers
	TEST_CUDA=1 $(BIN)/python -m pytest -q tests/test_cuda.py

bench: $(STAMP) ## time the solvers beside their peers
	$(BIN)/python -m tests.benchmarks

mutants: $(STAMP) ## put 300 small faults in the library and see which the tests miss (an hour)
	$(BIN)/python -m tests.mutants

coverage: $(STAMP) ## see which lines of the library the tests run (half an hour)
	$(BIN)/python -m tests.mutants --lines

faults: $(STAMP) ## damage files and break writes in 500 ways, and see what comes of it
	$(BIN)/python -m tests.faults --faults 500

release: $(STAMP) ## build the wheel and the sources in dist/, and try them in an empty environment
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build
	$(BIN)/python -m pytest -q -m 'slow or not slow' tests/release

check: $(STAMP) ## lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP) ## format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tutorials: $(STAMP) ## execute the tutorials, and keep what they print and draw
	$(BIN)/python docs/render.py

docs: tutorials ## build the documentation in site/, the tutorials as they ran
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean: ## remove the environment, the caches and what was built
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
