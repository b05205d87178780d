# `make` alone shows what there is. Python 3.11 or newer is all these need; the rest goes into .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The lists are complete, so nothing is resolved: a resolver may choose a newer release than the pinned one for a package
# that another asks for with an extra, and then finds it without a hash.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps

# Half of the time a test waits for a server, a browser or a clock.
SIDE_BY_SIDE := -n 2 --dist worksteal

# Checks read the settings, and those make a data folder: here one that is not yours.
CHECK_HOME := STRAKE_HOME=$(VENV)/check-home
# The settings of a real installation, which `check --deploy` is about. Nothing of it is contacted.
DEPLOYED := STRAKE_BASE_URL=https://strake.example.org \
	STRAKE_SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(50))') \
	STRAKE_MASTER_KEYS=$$($(BIN)/python -c 'from credentials.keyring import new_document; print(new_document())') \
	DATABASE_URL=postgres://strake@127.0.0.1/strake REDIS_URL=redis://127.0.0.1/0 EMAIL_URL=smtp://127.0.0.1

.PHONY: help run test check fix lock audit sbom bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.runs ## Install what is missing, serve on http://localhost:8000 (or PORT), print a sign-in link
	@exec $(BIN)/python manage.py serve

test: $(VENV)/.develops ## Run the tests, or with T=tests/test_urls_sweep.py one file of them
	@$(BIN)/python -m pytest $(or $(T),$(SIDE_BY_SIDE))

check: $(VENV)/.develops ## Everything CI runs: format, lint, layers, types, templates, settings, migrations, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(CHECK_HOME) $(BIN)/mypy
	$(BIN)/djlint --check templates
	$(BIN)/djlint --lint templates
	@echo 'manage.py check --deploy, as on a real host'
	@$(DEPLOYED) $(BIN)/python manage.py check --deploy --fail-level WARNING
	$(CHECK_HOME) $(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --cov --cov-report=term

fix: $(VENV)/.develops ## Format and mend what can be mended mechanically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/djlint --quiet --reformat templates

lock: $(VENV)/.develops ## Compile requirements*.in into requirements*.txt, with hashes (needs the network)
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 requirements.in -o requirements.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 requirements-dev.in -o requirements-dev.txt

audit: $(VENV)/.develops ## Look for known vulnerabilities in what is pinned (needs the network)
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements.txt

sbom: $(VENV)/.develops ## List what Strake runs on, with versions and hashes, as CycloneDX in sbom.json
	$(BIN)/cyclonedx-py requirements requirements.txt --output-reproducible --of JSON -o sbom.json

bench: $(VENV)/.develops ## Measure the forwarding path on this machine, side by side with others
	$(BIN)/python -m bench

clean: ## Remove .venv and caches; your data in .strake stays
	rm -rf $(VENV) .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than the lists they were installed from; a changed list installs again.
$(VENV)/.runs: requirements.txt | $(BIN)/pip
	@echo 'Installing what Strake runs on into $(VENV) …'
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.develops: requirements-dev.txt | $(BIN)/pip
	@echo 'Installing what the tests and checks need into $(VENV) …'
	@$(PIP) -r requirements-dev.txt
	@touch $@ $(VENV)/.runs

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Strake needs Python 3.11 or newer as $(PYTHON). Debian 12 and later: apt-get install python3' \
			'— or name another one: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'This Python cannot make virtual environments. As root: apt-get install python3-venv' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
