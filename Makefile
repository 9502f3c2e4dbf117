# The contributors' front door. Every target sets up .venv by itself; Python 3.11 and make are all it needs.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
DATA ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench bench-mal chaos cluster clean
.DEFAULT_GOAL := test

# uv is brought by pip into an environment of its own, so that nothing outside this folder changes.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
	  { echo "make: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python" >&2; exit 2; }
	@echo "setting up $(VENV) (once; some two minutes)"
	@if ! command -v uv >/dev/null; then $(PYTHON) -m venv $(VENV)-uv && $(VENV)-uv/bin/pip install --quiet uv; fi
	@UV=$$(command -v uv || echo $(VENV)-uv/bin/uv); \
	$$UV venv --quiet --clear --python $$(command -v $(PYTHON)) $(VENV) && \
	$$UV pip install --quiet -p $(VENV) --compile-bytecode --require-hashes -r requirements.lock && \
	$$UV pip install --quiet -p $(VENV) --no-deps -e .
	@touch $@

demo: $(READY)
	$(BIN)/dropmill demo $(if $(DATA),"$(DATA)")

test: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks

# Masks learnt from boxes, trained in full, and what a network learns from them: some twenty minutes on two
# quiet cores. A training that was cut off goes on with KEEP, a folder for its checkpoints.
bench-mal: $(READY)
	keep=$(or $(KEEP),$$(mktemp -d)) && $(BIN)/python -m benchmarks.mal_masks --keep $$keep && \
	  $(BIN)/python -m benchmarks.mal_retention --keep $$keep
	$(BIN)/python -m benchmarks crf mask_throughput

# Kills, faults and random changes, and then the tables against the bucket: about an hour at this size.
# The same again: make chaos SEED=123. Smaller: make chaos KILLS=10 EVENTS=1000
chaos: $(READY)
	$(BIN)/python -m tests.chaos --kills $(or $(KILLS),200) --events $(or $(EVENTS),20000) $(if $(SEED),--seed $(SEED))

# A Ray cluster of three nodes on this machine, a worker killed in every stage: some minutes on two quiet cores.
cluster: $(READY)
	$(BIN)/python -m tests.cluster $(if $(SEED),--seed $(SEED))

clean:
	rm -rf $(VENV) $(VENV)-uv
