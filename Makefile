# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
IAC := $(VENV)/iac

.PHONY: demo test lint types layers infra unit coverage bench format clean

demo: $(INSTALLED)
	$(BIN)/gpuplan launch --instance local --pipeline lr-then-train --yes
	@echo
	@echo "the commands above work after: source $(BIN)/activate"

test: lint types layers infra unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

layers: $(INSTALLED)
	$(BIN)/lint-imports

# checkov pins boto3, so what checks the template lives in an environment of its own.
infra: $(IAC)/.installed
	$(IAC)/bin/cfn-lint --config-file infra/.cfnlintrc
	$(IAC)/bin/python tests/infra/rendering.py $(IAC)/rendered
	$(IAC)/bin/checkov --config-file infra/.checkov.yaml --file infra/gpuplan.yaml $(IAC)/rendered/*.json

# Two at a time: many tests wait for processes. A file stays together, so that its emulator or its training is shared; in
# the order of their names, because those with few and slow tests, which must not come last, are in e2e and job.
unit: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

coverage: $(INSTALLED)
	$(BIN)/pytest --cov --cov-report=term

bench: $(INSTALLED)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# pip 25.1 is the first that installs dependency groups.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable '.[local]' --group dev
	touch $@

$(IAC)/.installed: infra/requirements-check.txt
	$(PYTHON) -m venv $(IAC)
	$(IAC)/bin/pip install --quiet --requirement infra/requirements-check.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
