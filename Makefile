# Every target works alone on a fresh machine with Python 3.11, 3.12 or 3.13.
#   make PYTHON=/path/to/python   another interpreter
#   make TORCH_INDEX=             torch from PyPI, with CUDA (the default where there is a GPU)
#   make quickstart ARGS="..."    further options of `libra quickstart` (see libra quickstart --help)

VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/quickstart

.DEFAULT_GOAL := help
.PHONY: help quickstart setup test test-all check bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: $(VENV)/.libero ## demonstrations, training, evaluation and a report (laptop CPU)
	$(BIN)/libra quickstart --out $(OUT) $(ARGS)

setup: $(VENV)/.libero,dev ## the environment for development

test: $(VENV)/.libero,dev ## all tests but the slow ones
	$(BIN)/pytest -m "not slow" -n 2 $(ARGS)

test-all: $(VENV)/.libero,dev ## all tests
	$(BIN)/pytest $(ARGS)

check: $(VENV)/.libero,dev ## style, types, layers, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/zensical build --clean --strict

bench: $(VENV)/.libero,dev ## speed, side by side
	$(BIN)/libra bench --out runs/bench $(ARGS)

docs: $(VENV)/.libero,dev ## the documentation, live at http://localhost:8000
	$(BIN)/zensical serve

clean: ## removes what the tools leave behind; keeps runs/, data/ and the environment
	rm -rf build dist site .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Renewed when what is to be installed has changed.
$(VENV)/.libero $(VENV)/.libero,dev: $(VENV)/.%: pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh $(VENV) $*
	@touch $@
