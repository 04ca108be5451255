# `make` alone lists what there is. Everything runs in .venv/, which `setup` makes from requirements.lock.

PYTHON ?=
DOCKER ?= docker
ARGS ?=

# On Linux PyPI's torch is the CUDA build; the CPU build carries the tag +cpu and has an index of its own.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)$(if $(filter Linux,$(shell uname -s)),+cpu)
PIP_TOOLS := pip-tools==7.6.2

export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := .venv/bin/python -m pip -qq

# Leaves the Python to build with in $$python: PYTHON=… where given, else the first of these that is new enough.
FIND_PYTHON = python=; for p in $(or $(PYTHON),python3.11 python3); do \
	  if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "twopass needs Python 3.11 or newer; none was found as: $(or $(PYTHON),python3.11 python3)."; \
	  echo "Install it, or say where it is: make setup PYTHON=/path/to/python3.11"; \
	  exit 1; \
	fi >&2

# Two marks, both written last: a copy of the lock that was installed, and the folder the project was installed from.
LOCK_MARK := .venv/installed.lock
PROJECT_MARK := .venv/installed-from
# An environment that was moved, copied with its checkout, or has lost its Python is made anew.
ifneq "$(shell test -x .venv/bin/python && cat $(PROJECT_MARK) 2>/dev/null)" "$(CURDIR)"
STALE := stale
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-faults check bench docs container lock clean stale
.DELETE_ON_ERROR:

help: ## this list
	@echo "twopass: vector search in two passes. Start with: make demo"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(PROJECT_MARK) ## make or update the environment in .venv/ (nothing to do when it is current)

demo: setup ## index the docstrings of Python's standard library and search them
	.venv/bin/twopass demo $(ARGS)

serve: setup ## run the server on http://127.0.0.1:8000
	.venv/bin/twopass serve $(ARGS)

test: setup ## run the tests (ARGS="-k name" to choose, ARGS="-n 0" for one after another)
	.venv/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

test-faults: setup ## what takes long: 100 kills, made-up requests, an old processor, no network, an hour of load
	.venv/bin/python -m pytest -n 2 --dist load -m faults
	unshare --map-root-user --mount --net sh -c 'ip link set lo up && .venv/bin/python -m pytest -n 2 --dist loadfile'
	.venv/bin/python -m benchmarks soak

check: setup ## lint, format and type checks
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

bench: setup ## run the benchmarks
	.venv/bin/python -m benchmarks $(ARGS)

docs: setup ## write docs/http-reference.md anew, after a change of the API
	.venv/bin/python -m docs.http_reference

container: ## build the container image "twopass"
	@$(DOCKER) info >/dev/null 2>&1 || { \
	  echo "make container: no container engine answers to '$(DOCKER)'."; \
	  echo "Install Docker and start it, or name another engine: make container DOCKER=podman"; \
	  exit 1; } >&2
	$(DOCKER) build -t twopass .

# torch is resolved from its CPU wheel, so that no CUDA package is ever asked for, and then left out of the files:
# its hash differs from one source to the next. --build-deps-for: twopass is built in the environment itself, with the
# setuptools pinned here; without it pip-compile also forgets the platform markers of an extra's packages.
lock: ## pin the packages anew after pyproject.toml changed (UPGRADE=1: take the newest of each)
	@$(FIND_PYTHON); \
	set -e; \
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$$python -m venv "$$tools/venv"; \
	pip="$$tools/venv/bin/python -m pip -qq"; \
	$$pip install $(PIP_TOOLS); \
	$$pip download --no-deps --retries 0 --extra-index-url $(TORCH_INDEX) --dest "$$tools/wheels" $(TORCH); \
	pin() { \
	  file=$$1; shift; \
	  "$$tools/venv/bin/pip-compile" -qq --generate-hashes --build-deps-for wheel --strip-extras \
	    --no-header --no-emit-options --find-links "$$tools/wheels" --unsafe-package torch $(if $(UPGRADE),--upgrade) \
	    --output-file "$$file" "$$@" pyproject.toml 2>"$$tools/log" || { \
	    cat "$$tools/log" >&2; exit 1; }; \
	  { echo "# Made by 'make lock' with $$($$python --version). Installed after torch, which is not in it, with"; \
	    echo "#   pip install --no-deps --require-hashes -r $$file"; \
	    sed '/^#/d; /^$$/d' "$$file"; \
	  } >"$$tools/$$file"; \
	  if grep -E '^(nvidia-|triton|cuda-)' "$$tools/$$file"; then \
	    echo "make lock: these are CUDA packages; $$file is not written" >&2; exit 1; fi; \
	  grep -Eo '^[a-z0-9._-]+==[^ ]+' "$$tools/$$file" >"$$tools/names"; \
	  $$pip install --dry-run --no-deps --python-version 3.11.0 --only-binary :all: --target "$$tools/old" \
	    -r "$$tools/names" || { \
	    echo "make lock: that one isn't for every Python 3.11; $$file is not written" >&2; exit 1; }; \
	  cp "$$tools/$$file" "$$file"; \
	}; \
	pin requirements.lock --extra test --extra dev --extra files; \
	pin requirements-run.lock --extra files --constraint requirements.lock

clean: ## remove the environment and everything built (data/ stays)
	rm -rf .venv build docker/wheels/*.whl twopass.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment holds the lock file's packages and nothing else: a lock that changed, or a setup that was
# interrupted, makes it anew (pip's cache makes that cheap). torch's file stays in docker/wheels/, so that an image built
# later needn't fetch it again.
$(LOCK_MARK): requirements.lock $(STALE)
	@if [ -z "$(STALE)" ] && cmp -s requirements.lock $@; then touch $@; exit 0; fi; \
	$(FIND_PYTHON); \
	set -e; \
	echo "setup: making .venv with $$($$python --version)"; \
	rm -rf .venv; \
	$$python -m venv .venv; \
	echo "setup: installing $(TORCH) (the largest part: some 200 MB to download)"; \
	$(PIP) download --no-deps --retries 0 --extra-index-url $(TORCH_INDEX) --dest docker/wheels $(TORCH) && \
	$(PIP) install --no-deps --no-index --find-links docker/wheels $(TORCH) || { \
	  echo "setup: torch did not install. Is $(TORCH_INDEX) reachable? 'make setup' starts again." >&2; exit 1; }; \
	echo "setup: installing the packages of requirements.lock"; \
	$(PIP) install --no-deps --require-hashes -r requirements.lock; \
	cp requirements.lock $@

$(PROJECT_MARK): $(LOCK_MARK) pyproject.toml
	@echo "setup: installing twopass from this folder"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@broken=$$(.venv/bin/python -m pip check) || { echo "$$broken" >&2; exit 1; }
	@printf '%s' '$(CURDIR)' >$@
	@echo "setup: done"
