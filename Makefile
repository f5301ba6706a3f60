# Every target prepares what it needs; nothing has to be installed or activated before, except Python 3.11+ and git.
# Give arguments with ARGS, e.g.  make demo ARGS="--json report.json"  or  make test ARGS="tests/unit -x"

ARGS   ?=
PYTHON ?= # a Python to build the environment with, when the ones on PATH will not do

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
# Stamps are written last, so that an interrupted installation is simply done again.
RUN    := $(VENV)/.installed-coordinator
DEV    := $(VENV)/.installed-dev

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint breaking bench chaos proto clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(RUN) ## The whole swarm on this machine: four patches, three volunteers, four verdicts (two to five minutes)
	@$(BIN)/autoresearch-coordinator demo $(ARGS)

test: $(DEV) ## All tests but the long form
	@$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not full" $(ARGS)

test-full: $(DEV) ## All tests, the long form too
	@$(BIN)/python -m pytest -q $(ARGS)

lint: $(DEV) breaking ## Style, types and the protocol's rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/buf lint proto

# What has landed is on other people's machines: from then on the protocol may only grow.
breaking: $(DEV) ## Compares the protocol with the one that has landed (origin/main)
	@if git rev-parse -q --verify origin/main:proto/buf.yaml >/dev/null 2>&1; then \
		rm -rf build/landed && mkdir -p build/landed && git archive origin/main proto | tar -x -C build/landed && \
		$(BIN)/buf breaking proto --against build/landed/proto; \
	else \
		echo "Protocol: nothing has landed yet to compare with."; \
	fi

bench: $(DEV) ## Measurements; they print figures and judge nothing
	@for file in tests/benchmarks/bench_*.py tests/benchmarks/trial.py; do $(BIN)/python "$$file" $(ARGS) || exit 1; done

chaos: $(DEV) ## A real swarm that is killed, frozen and cut at random; then whether everything still holds
	@$(BIN)/python tests/chaos/run.py $(ARGS)

proto: $(DEV) ## Makes the generated protocol code again
	@$(BIN)/python proto/generate.py

clean: ## Removes the environment, caches and build outputs (never a swarm's data)
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One after the other even under `make -j`: two pips in one environment harm each other.
$(DEV): $(RUN) pyproject.toml
	@echo "Installing the developer's tools (once, under a minute) ..."
	@$(PIP) install --editable '.[dev]'
	@touch $@

$(RUN): $(VENV)/.made pyproject.toml
	@echo "Installing the swarm into $(VENV) (once; downloads PyTorch: one to ten minutes) ..."
	@$(PIP) install --editable '.[coordinator]'
	@touch $@

# The first Python that is new enough and can make environments. A leftover environment whose Python is gone is removed.
$(VENV)/.made:
	@PATH="$${PATH#$(CURDIR)/$(BIN):}"; old=; \
	for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
		version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
		if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then old="$$old $$python is $$version;"; continue; fi; \
		if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then old="$$old $$python cannot make environments (on Debian and Ubuntu: apt install python$$version-venv);"; continue; fi; \
		$(BIN)/python -c '' 2>/dev/null || rm -rf $(VENV); \
		"$$python" -m venv $(VENV) && touch $@; exit $$?; \
	done; \
	echo "No usable Python 3.11 or newer:$${old:- none found;} install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1
