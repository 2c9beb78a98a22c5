# Every target makes .venv where it is missing; it takes Python 3.11+ and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: quickstart test lint

# Train a 1-bit generative model on handwritten digits, about a minute on two cores.
quickstart: .venv/installed
	rm -rf runs/quickstart
	$(BIN)/tribin train resnet_vae/digits_w1a1 --run-dir runs/quickstart

test: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	touch $@
