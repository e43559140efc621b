# make sweep: what a sweep needs, then the default sweep.   make test: what the tests need besides, then all that CI runs.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# Fast tests of one module each: two minutes at most on two cores.
QUICK := tests/core/test_checkpoint.py tests/core/test_data.py tests/core/test_gate.py tests/core/test_schedule.py \
  tests/core/test_step.py tests/sweeps/config/test_config.py tests/sweeps/records tests/sweeps/schedulers \
  tests/sweeps/search/test_history_window.py tests/sweeps/search/test_journal.py tests/sweeps/search/test_search.py \
  tests/sweeps/search/test_space.py tests/sweeps/commands/test_help.py tests/trainables/circuits/test_circuits.py \
  tests/trainables/operators/test_balance.py tests/test_readme.py

.PHONY: env env-test sweep test quick check ui clean

env: .venv/ready
env-test: .venv/ready-test

.venv/bin/python:
	@echo "gatesweep: a virtual environment in .venv (seconds)"
	@$(PYTHON) -m venv .venv

.venv/ready: pyproject.toml constraints.txt | .venv/bin/python
	@echo "gatesweep: installing what a sweep needs into .venv: torch, Ray, Optuna, MLflow (1 to 5 GB, some minutes)"
	@$(PIP) -e .
	@touch $@

.venv/ready-test: .venv/ready
	@echo "gatesweep: installing what the tests need besides: pytest, mypy, moto, playwright (about a minute)"
	@$(PIP) --quiet -e ".[dev]"
	@touch $@

sweep: env
	@echo "gatesweep: the default sweep (some three minutes on two cores); make sweep ARGS=--help shows what else there is"
	@$(BIN)/python -m gatesweep run $(ARGS)

test: env-test check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m tests.rounding

quick: env-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(QUICK)

check: env-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: env
	@$(BIN)/python -m gatesweep ui $(ARGS)

clean:
	rm -rf .venv build *.egg-info
