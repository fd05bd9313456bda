# Two commands on a fresh machine: `make demo` and `make test`. `make` alone lists them all.

# What can be set, as in `make test PYTHON=python3.12 WHEELS=/mnt/wheels`:
PYTHON ?= python3
DEVICE ?= auto
WHEELS ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS ?=
BENCH ?= bench/bench_*.py

PY := .venv/bin/python
SETUP = PYTHON="$(PYTHON)" MAKE_GOAL="$@" sh scripts/setup.sh \
	--device "$(DEVICE)" --wheels "$(WHEELS)" --torch-index "$(TORCH_INDEX)" $(if $(V),--verbose)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check fix bench lock clean distclean
.NOTPARALLEL:
.SUFFIXES:

help: ## this list
	@echo "make TARGET [PYTHON=python3] [DEVICE=auto|cpu|gpu] [WHEELS=folder] [TORCH_INDEX=address] [ARGS=…] [V=1]"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

setup: ## make .venv, for a GPU where nvidia-smi finds one
	@$(SETUP)

demo: ## grade the example course with the default model and print the marks
	@$(SETUP)
	@$(PY) scripts/demo.py $(ARGS)

test: check ## everything CI runs: lint, types, docs, tests
	@sh scripts/browser.sh
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

check: ## lint, types, docs
	@$(SETUP) --dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) scripts/check_docs.py

fix: ## repair what ruff can, and format
	@$(SETUP) --dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: ## run the benchmarks (BENCH="bench/bench_one.py" for some)
	@$(SETUP) --dev
	@set -e; for script in $(BENCH); do echo "== $$script"; $(PY) "$$script" $(ARGS); done

lock: ## pin every version anew from the requirements (ARGS=--upgrade for newer ones)
	@$(SETUP) --dev
	$(PY) scripts/lock.py --wheels "$(WHEELS)" --torch-index "$(TORCH_INDEX)" $(ARGS)

clean: ## remove caches and build leftovers
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## and .venv; models in the cache stay
	@if [ -f .venv/outside ]; then rm -rf "$$(cat .venv/outside)"; fi
	rm -rf .venv
