# `make demo` and `make test` need nothing before them but Python 3.11+ and pip: they build .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What the demo's model learns: math (word problems), code (small functions), or mixed.
TASK ?= math
# Where pip finds the CPU build of torch when its usual places do not have it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Real data for the tests that use it; without it they say that they were skipped.
export RLVR_DATA ?= $(abspath ../shared/data)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check typecheck base clean help

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/installed ## train the embedded tiny model by RL and show that it got better (TASK=math, code or mixed)
	$(BIN)/rlvr demo --task $(TASK)

test: check ## all tests
	$(BIN)/python -m pytest

check: $(VENV)/installed typecheck ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The five source folders install as one package; the type checker sees them so through links.
typecheck: $(VENV)/installed
	@rm -rf build/typed && mkdir -p build/typed/rlvr
	@ln -s $(CURDIR)/rlvr/* build/typed/rlvr/
	@for room in rewards envs distill sandbox; do ln -s $(CURDIR)/$$room build/typed/rlvr/$$room; done
	cd build/typed && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/build/mypy

base: $(VENV)/installed ## make the demo's base model anew (about 10 minutes of one core)
	$(BIN)/python -m rlvr.demo.build_base

$(VENV)/installed: pyproject.toml rlvr/install_cpu_engine.py
	@echo "installing into $(VENV): about 4 GB, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip setuptools wheel
	$(PIP) torch==2.13.0+cpu || $(PIP) torch==2.13.0+cpu --extra-index-url $(TORCH_INDEX)
	$(PIP) --editable '.[dev]'
	$(BIN)/python -m rlvr.install_cpu_engine
	@touch $@

clean: ## remove the environment and what was built
	rm -rf $(VENV) build *.egg-info
