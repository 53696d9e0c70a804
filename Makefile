# Everything starts here: each target does its own set-up in .venv (see tools/setup_venv.sh).
# PYTHON=/path/to/python3.12 make ... chooses the Python; PYTEST="-k decoder" goes to pytest.

bin := .venv/bin
PYTEST ?=
workers := -n 2 --dist loadfile --no-loadscope-reorder --durations 10
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup demo notebooks test check prove format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with the pinned packages (the other targets do it themselves)
	@tools/setup_venv.sh

demo: setup ## train on real data, export, prove the export equal, run it: about 20 minutes
	@$(bin)/keras-transformer demo

notebooks: setup ## execute the notebooks in clean kernels and save them
	@$(bin)/python notebooks/execute.py

test: setup ## run the tests in two processes, and say what was skipped and why
	@$(bin)/python -m pytest -q -rs $(workers) $(PYTEST)
	@echo "Once more with Keras on JAX, the tests of both backends:"
	@KERAS_BACKEND=jax $(bin)/python -m pytest -q -rs $(workers) -m jax $(PYTEST)

check: setup ## what continuous integration wants: lint, format, types, tests
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/pyright
	@$(MAKE) --no-print-directory test

DATA ?= ../shared/data/multi30k

prove: setup ## measure what benchmarks/RESULTS.md reports, with Multi30k in DATA=folder: two hours
	$(bin)/python benchmarks/pipeline.py
	$(bin)/python benchmarks/pipeline.py --stream 5000000
	$(bin)/python benchmarks/pipeline.py --source $(DATA)/train.en --target $(DATA)/train.de
	$(bin)/python benchmarks/memory_reuse.py
	$(bin)/python benchmarks/kill.py
	$(bin)/python -m pytest -q -rs -m prove
	REFERENCES=1 tools/setup_venv.sh
	$(bin)/python benchmarks/layers.py --works forward
	$(bin)/python benchmarks/training.py --source $(DATA)/train.en --target $(DATA)/train.de --plot benchmarks/training.png
	$(bin)/keras-transformer export runs/multi30k exported/multi30k --precision int8 --layout split --force
	$(bin)/python benchmarks/exactness.py runs/multi30k exported/multi30k
	$(bin)/python benchmarks/decode.py runs/multi30k exported/multi30k --data $(DATA)
	$(bin)/python benchmarks/bare_step.py exported/multi30k

format: setup ## let ruff fix and format the code
	@$(bin)/ruff check --fix --quiet . ; $(bin)/ruff format .

clean: ## remove .venv, caches and built packages; runs/ and exported/ stay
	@rm -rf .venv .pytest_cache .ruff_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
