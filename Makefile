# make run    set up everything, fine-tune the embedded model with DRIFT, and compare plain GRPO with
#             DRIFT at equal reward, from adapters that were trained for longer
# make test   set up everything and run the tests but the slow ones; SLOW=all with them, SLOW=2/4
#             with the second of four shares of them
# make check  lint, format, types, import contracts
# make bench  speed and memory beside straight-line loops, a short table: docs/performance.md
# make docs   the documentation as a site, in build/docs: warnings are errors
# make results  rebuild docs/results.md and docs/performance.md from what is stored in docs/results,
#               and docs/configuration.md from the tables of settings
VENV := .venv
BIN := $(VENV)/bin

# The first Python that is new enough and can make an environment; or PYTHON=... from outside.
PYTHONS := python3.13 python3.12 python3.11 python3
PYTHON ?= $(shell for python in $(PYTHONS); do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
NO_PYTHON = no Python 3.11 or newer that can make an environment (tried $(PYTHONS)): install one, \
	on Debian with its python3-venv, or name it with PYTHON=...

# A Mac trains on MLX, anything else on PyTorch, and the emoji model needs nothing else of the
# extras; the tests need both.
PLATFORM := $(shell uname -s)-$(shell uname -m)
SLOW ?= none
LIBRARY := $(if $(filter Darwin-arm64,$(PLATFORM)),mlx,torch)

# Python compiles what is imported, and keeps it; compiling all that is installed takes a minute more.
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check \
	-c constraints.txt
# Whatever the shell says: else each of many processes would compile all sources again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test check bench docs results clean
run: $(VENV)/.run
	$(BIN)/drift run $(ARGS)
	$(BIN)/drift showcase

test: $(VENV)/.test
	DRIFT_REQUIRE_BACKENDS=torch,mlx OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --slow $(SLOW) $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	# Left alone, pyright would look for packages in the shell's Python.
	$(BIN)/pyright --pythonpath $(BIN)/python

# Stamps say that a step ended: the files that a failed one left behind are made again.
$(VENV)/.made:
	$(or $(PYTHON),$(error $(NO_PYTHON))) -m venv --clear $(VENV)
	touch $@

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP) -e . $(LIBRARY)
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP) -e '.[torch,mlx,rewards,dev]'
	# diffusionkit pins an old MLX, so it goes in without its dependencies; this one it imports.
	$(PIP) --no-deps diffusionkit==0.5.2 beartype
	touch $@

bench: $(VENV)/.test
	$(BIN)/python -m scripts.bench_peers --short $(ARGS)

docs: $(VENV)/.test
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs
	@echo build/docs/index.html

results: $(VENV)/.test
	$(BIN)/python -m scripts.make_results
	$(BIN)/python -m scripts.make_performance
	$(BIN)/python -m scripts.make_configuration

clean:
	rm -rf $(VENV)
