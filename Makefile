PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep -m1 '^torch==' constraints.txt)
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test slow check docs bench bench-speed peers mutants clean

demo: .venv/.demo  ## tune three prompts on a real model and real text, keep them, use them
	$(BIN)/python examples/demo.py

test: .venv/.dev  ## the default tests: offline, on the CPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

slow: .venv/.dev  ## the tests that take minutes or real weights
	$(BIN)/python -m pytest -m slow

check: .venv/.dev  ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/.docs  ## build the pages, warnings are errors
	$(BIN)/mkdocs build --strict

bench: .venv/.dev  ## frozen head, prompt tuning, P-tuning v2, fine-tuning on public tasks (hours; needs PROMPTUARY_DATA)
	$(BIN)/python benchmarks/learning.py

bench-speed: .venv/.peers  ## steps, answers and memory beside PEFT and plain PyTorch (minutes)
	$(BIN)/python benchmarks/speed/all.py

peers: .venv/.peers  ## the table of what PEFT does with the same inputs
	$(BIN)/python benchmarks/peft_errors.py

mutants: .venv/.peers  ## do the tests notice a broken core?
	$(BIN)/python tests/mutants.py

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,serve,study]'
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,serve,study]'
	touch $@ .venv/.demo

.venv/.docs: .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,serve,study,docs]'
	touch $@

.venv/.peers: .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,serve,study,peers]'
	touch $@

clean:
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
