# The front door. `make sweep` on a fresh machine: environment, offline sweep, report. `make test`: the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A CPU-only machine can avoid the CUDA wheels: make sweep TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: sweep studies test test-faults test-cluster check format bench clean

sweep: $(VENV)/.run  ## pretrain the offline ladder, sweep it, write the report
	$(BIN)/w2s run examples/facts.yaml

studies: $(VENV)/.run  ## every study of the paper on the offline ladder: a report each, in one storage
	@for spec in examples/studies/[0-9]*.yaml; do echo "$$spec"; $(BIN)/w2s run $$spec || exit $$?; done

test: $(VENV)/.dev  ## the tests, but for the two below
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --no-loadscope-reorder --ignore=tests/faults --ignore=tests/cluster

test-faults: $(VENV)/.dev  ## machines that go and come, two drivers at once: about seven minutes on clusters of raylets
	$(BIN)/python -m pytest tests/faults

test-cluster: $(VENV)/.dev  ## ray up on three hosts made on this machine; as root on Linux, with sshd and rsync
	W2S_CLUSTER_TEST=1 $(BIN)/python -m pytest -s tests/cluster

check: $(VENV)/.dev  ## style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.run  ## overhead, planning and throughput figures
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/throughput.py

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@echo "installing into $(VENV), about two minutes ..."
	@$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(PIP) -e '.[dev]'
	@touch $@

clean:  ## the environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
