# Everything on a fresh machine: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST ?= $(BIN)/pytest
STAMP := $(VENV)/.installed
# Tests start Python hundreds of times, and pytest rewrites each of their modules: compile once.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-all fuzz bench lint clean check-build-tools

demo: $(STAMP)
	$(BIN)/python -m demo

# On each core; eight processes collect the tests about as fast as more would run them. Each takes
# whole modules at first, whose fixtures it then makes once.
test: $(STAMP)
	$(PYTEST) -n auto --maxprocesses=8 --dist worksteal -m "not slow and not consumers"

# Including the slow tests and those with real container tools (as root, see .ci/run).
test-all: $(STAMP)
	$(PYTEST)

# FUZZ_SECONDS (default 60) for each target. Needs clang: apt-get install clang.
fuzz: $(STAMP)
	.ci/fuzz

# Builds stores of several GB on the first run; `python -m bench --help` lists smaller ones.
bench: $(STAMP)
	$(BIN)/python -m bench

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

$(STAMP): pyproject.toml setup.py $(wildcard native/*) | check-build-tools
	@echo "Making $(VENV), compiling and installing (one or two minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# Print the first missing tool with the Debian package that provides it.
check-build-tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || { echo "Python 3.11 or later is missing: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null \
	    || { echo "a C compiler is missing: apt-get install gcc libc6-dev" >&2; exit 1; }
	@echo '#include <stdlib.h>' | cc -E -x c - >/dev/null 2>&1 \
	    || { echo "the C library's headers are missing: apt-get install libc6-dev" >&2; exit 1; }
	@echo '#include <openssl/evp.h>' | cc -E -x c - >/dev/null 2>&1 \
	    || { echo "OpenSSL's headers are missing: apt-get install libssl-dev" >&2; exit 1; }
	@echo '#include <Python.h>' | cc -E -x c \
	    -I"$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')" - >/dev/null 2>&1 \
	    || { echo "Python's headers are missing: apt-get install python3-dev" >&2; exit 1; }

clean:
	rm -rf $(VENV) build .demo stream/*.so *.egg-info
