# What the README's commands call. The environment is .venv in this folder; nothing has to be active.
# PYTHON=/path/to/python3.12 chooses the interpreter that it is made from (3.11 or 3.12).

SHELL := /bin/bash
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help environment quickstart test campaign mutants lint bench clean

help:
	@echo "make quickstart   environment, corpus, two short trainings, a table, curves and filled-in sentences"
	@echo "make test         the tests, on CPU (TESTS=tests/masking for some of them)"
	@echo "make campaign     1,200 broken inputs and nonsensical options, each of which has to end in one line (some ten minutes)"
	@echo "make mutants      300 planted mistakes, and whether a test sees each (half an hour)"
	@echo "make lint         ruff format, ruff check, mypy, import contracts"
	@echo "make bench        the benchmarks of scripts/bench"
	@echo "make clean        everything that was made here, the environment included"

environment:
	@PYTHON="$(PYTHON)" bash scripts/environment.sh

quickstart: export OMP_NUM_THREADS := $(shell nproc 2>/dev/null || echo 2)
quickstart:
	@PYTHON="$(PYTHON)" bash scripts/environment.sh --runtime
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/quickstart/run.sh

test: export PYTHONDONTWRITEBYTECODE :=
test: environment
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(or $(TESTS),tests)

campaign: environment
	$(BIN)/python tests/campaign/run.py $(CAMPAIGN)

mutants: environment
	$(BIN)/python -m venv .mutants/venv
	.mutants/venv/bin/python -m pip install -q cosmic-ray coverage
	site=$$(.mutants/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$site/environment.pth
	ln -sf $(CURDIR)/$(BIN)/fairseq-* $(CURDIR)/$(BIN)/torchrun .mutants/venv/bin/
	.mutants/venv/bin/python tests/campaign/mutants.py $(MUTANTS)

lint: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: environment
	for name in masking step operations loading scaling; do $(BIN)/python scripts/bench/$$name.py || exit 1; done

clean:
	rm -rf .venv .mutants .quickstart build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache outputs multirun
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
