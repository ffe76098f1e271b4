# make run    set up everything and fine-tune the embedded model with DRIFT
# make test   set up everything and run the tests
# make check  lint, format, types, import contracts
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLATFORM := $(shell uname -s)-$(shell uname -m)

# A Mac trains on MLX, anything else on PyTorch; the tests need both.
ifeq ($(PLATFORM),Darwin-arm64)
RUN_EXTRAS := mlx
else
RUN_EXTRAS := torch
endif

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test check clean
run: $(VENV)/.run
	$(BIN)/drift run $(ARGS)

test: $(VENV)/.test
	DRIFT_REQUIRE_BACKENDS=torch,mlx OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	$(BIN)/python -m pytest -n auto $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[$(RUN_EXTRAS)]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[torch,mlx,dev]'
	# diffusionkit pins an old MLX, so it goes in without its dependencies.
	$(PIP) --no-deps diffusionkit==0.5.2 argmaxtools==0.1.23
	$(PIP) beartype jaxtyping sentencepiece regex
	touch $@

clean:
	rm -rf $(VENV) runs
