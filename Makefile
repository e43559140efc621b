# make sweep: the environment, then the default sweep.   make test: the environment, then everything CI runs.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: env sweep test check ui clean

env: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

sweep: env
	$(BIN)/python sweeps/run.py $(ARGS)

test: env check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: env
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --host 127.0.0.1 \
	  --port 5000 --workers 1 --backend-store-uri sqlite:///$(CURDIR)/results/mlflow.db

clean:
	rm -rf .venv build *.egg-info
