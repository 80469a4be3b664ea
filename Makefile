# Each target does its own set-up in .venv. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help run test check fix bench torture up down lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(READY) ## Train the first champion on real flights, then judge a challenger three months later
	@$(BIN)/python -m flows.pipeline --recipe flights --as-of 2013-04-01 --as-of 2013-07-01

test: $(READY) ## Run every test
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: $(READY) ## Verify style, types and the layers of the architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: $(READY) ## Rewrite what can be rewritten
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## Measure: the gate's error rates and speed, the main job's parts
	@$(BIN)/python -m tests.benchmarks

torture: $(READY) ## Nine months of flights week by week, planted faults, a hundred kills: an hour
	@$(BIN)/python -m pytest -s tests/torture

up: $(READY) ## Start Prefect server, worker and MLflow UI of this home, and deploy
	@$(BIN)/python -m flows.services up

down: $(READY) ## End what `make up` started
	@$(BIN)/python -m flows.services down

lock: $(READY) ## Write down the versions that are installed now
	@{ sed -n '/^#/p' requirements.lock; \
	   $(BIN)/pip freeze --exclude-editable | sed -E 's/\+cpu$$//' | grep -vE '^(pip|setuptools)=='; } > .lock.new
	@mv .lock.new requirements.lock

clean: ## Remove the environment and all state
	@rm -rf .venv .perennial .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Perennial needs Python 3.11 or newer, this is $$($(PYTHON) --version); name another: make run PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv: the first time this takes some minutes, most of them for downloads."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 -c requirements.lock -e '.[dev]'
	@$(BIN)/python -c 'from flows import prefect_database as prefect; from tasks.stores import tracking_database as mlflow; prefect.make(); mlflow.make_template()'
	@touch $@
