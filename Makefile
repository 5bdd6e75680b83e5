# All targets use one virtual environment with the tested versions of constraints.txt.
PYTHON ?= python3.11
BIN := .venv/bin
# Each process that a test starts would compile torch again if Python might not keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo check test test-all matrix slow docs bench structure mutants crash soak models interop servers

install: .venv/.installed

# Python compiles what is imported, at its first import: less than pip would compile, in half the time.
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# The library, and what tests and checks need beside it.
.venv/.package: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/.installed: .venv/.package
	$(PIP) -e ".[dev]"
	touch $@

# Install the library, then train a tiny model with PPO++ to praise films, on embedded reviews, offline.
demo: .venv/.package
	$(BIN)/tril-gym train ppo-pp --env tril/IMDB-v0

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/project/test_layers.py

# Run the tests in two processes of one thread each: more threads than cores only wait for each other.
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# The long sweeps that `make test` leaves out: every algorithm on every task with both kinds of model.
matrix: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m slow

# All tests, the long sweeps too.
test-all: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "slow or not slow"

# Train every algorithm on embedded data, with two seeds each: hours. Results are kept, so it can be interrupted.
# `make slow SEEDS=5` takes more seeds; DATA=folder adds four algorithms on published data, three seeds each.
# Both sweeps run even if a result does not pass; the exit code is then 1.
slow: install
	failed=0; \
	$(BIN)/python benchmarks/learning.py runs/learning --algorithms all --control --seeds $(or $(SEEDS),2) || failed=1; \
	$(if $(DATA),$(BIN)/python benchmarks/learning.py runs/learning_published --data $(DATA) --policies tiny \
		--algorithms ppo ppo-pp aggrevated gail --seeds 3 || failed=1;) \
	exit $$failed

docs: install
	$(BIN)/pytest tests/project/test_docs.py

# Packages, their imports and their sizes.
structure: install
	$(BIN)/python scripts/structure.py

# Check a tiny model of every family of transformers and write docs/models.md: ten minutes.
models: install
	$(BIN)/python scripts/models_table.py

# Plant defects one by one and print which ones the tests notice: a quarter of an hour.
mutants: install
	$(BIN)/python scripts/mutants.py

# Speed and memory compared with other libraries: half an hour. `make bench DATA=folder` adds real texts, `TRL=python` TRL.
bench: install
	$(BIN)/python benchmarks/environment.py
	$(BIN)/python benchmarks/rollout.py $(if $(DATA),--data $(DATA))
	$(BIN)/python benchmarks/iteration.py $(if $(DATA),--data $(DATA)) $(if $(TRL),--trl-python $(TRL))
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/score_workers.py --threads 1
	$(BIN)/python benchmarks/overlap.py --threads 1
	$(if $(DATA),$(BIN)/python benchmarks/scoring.py $(DATA)/commongen)

# Kill runs of every algorithm at random file operations, resume them, and compare: half an hour.
crash: install
	$(BIN)/python scripts/crash.py

# 2,000 iterations with random faults of reward and guide, and with kills: half an hour.
soak: install
	$(BIN)/python scripts/soak.py

# Train with other libraries, each installed in a virtual environment of its own: an hour the first time.
# `make interop ONLY=skrl_ppo` runs one of them.
interop: install
	$(BIN)/python scripts/interop.py $(if $(ONLY),--only $(ONLY),--write)

# A guide behind a real `transformers serve`, which is installed beside the project: two minutes.
servers: install
	$(BIN)/python scripts/transformers_serve.py
