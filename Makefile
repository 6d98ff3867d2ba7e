# make demo | test | test-slow | test-browser | check | mutate | clean. Each sets up .venv on first use; python3 must be 3.11 or later.
PYTHON ?= python3
SAMPLE ?= 200
SEED ?= 0
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-slow test-browser check mutate clean

demo: $(READY)
	$(BIN)/recsys run --config demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-browser: $(READY)
	$(BIN)/python -m pytest -m browser

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

mutate: $(READY)
	$(BIN)/python -m tests.mutation --sample $(SAMPLE) --seed $(SEED)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, $(PYTHON) is " + sys.version.split()[0] + "; say make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	touch $(READY)
