# make help lists the targets. Each sets up .venv on first use; python3 must be 3.11 or later.
PYTHON ?= python3
SAMPLE ?= 200
SEED ?= 0
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test test-slow test-browser check mutate clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(READY) ## train, evaluate and compare all systems on the embedded dataset
	$(BIN)/recsys run --config demo --out runs/demo

test: $(READY) ## fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadgroup -m "not slow and not gpu and not browser"

test-slow: $(READY) ## runs killed and resumed, endpoints under load, Ray, the wheel
	$(BIN)/python -m pytest -m slow

test-browser: $(READY) ## the page in Chromium
	$(BIN)/python -m pytest -m browser

check: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

mutate: $(READY) ## mutation score of a random sample (SAMPLE=200 SEED=0)
	$(BIN)/python -m tests.mutation --sample $(SAMPLE) --seed $(SEED)

clean: ## remove .venv, builds and caches
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, $(PYTHON) is " + sys.version.split()[0] + "; run make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	touch $(READY)
