# `make` lists the targets. They need Python 3.11 or newer and install the rest into .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Wheels only, so that installing runs no code of a package. The lists are complete, so nothing is resolved: for a package
# that another one requires with an extra, pip's resolver may choose a newer release, which then has no hash.
WHEELS := -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all:
PIP := $(BIN)/python $(WHEELS)

# After an upgrade of the system's Python, .venv may lead to an interpreter that is gone. manage.py finds missing packages.
WORKS := test -x $(BIN)/python || { echo '$(VENV) leads to no Python any more. Run: make clean, and then this again' >&2; exit 1; }

# What `make clients` installs from npm and PyPI is gigabytes, so it is kept outside of the tree.
CLIENTS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/strake-clients

# Tests spend more than half of their time waiting for a server, a browser or a clock.
PARALLEL := -n 3 --dist worksteal

# The settings of a deployed Strake, for `check --deploy`. None of these services runs here, so it contacts none.
DEPLOYED := STRAKE_CHECK_SERVICES=0 STRAKE_BASE_URL=https://strake.example.org STRAKE_TRUSTED_PROXIES=1 \
	STRAKE_SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(50))') \
	STRAKE_MASTER_KEYS=$$($(BIN)/python -c 'from credentials.vault.keyring import new_document; print(new_document())') \
	DATABASE_URL=postgres://strake@127.0.0.1/strake REDIS_URL=redis://127.0.0.1/0 EMAIL_URL=smtp://127.0.0.1

.PHONY: help run test check fix lock audit sbom coverage screenshots bench mutations fronts clients container faults hostile fuzz clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.runs $(VENV)/.commands ## Install what is missing, serve on http://localhost:8000 (or PORT) and print a sign-in link
	@$(WORKS)
	@exec $(BIN)/python manage.py serve

test: $(VENV)/.develops ## Run the tests, or one file with T=tests/test_urls_sweep.py
	@$(WORKS)
	@$(BIN)/python -m pytest $(or $(T),$(PARALLEL))

check: $(VENV)/.develops ## Run everything that CI runs: format, lint, layers, types, templates, settings, tests
	@$(WORKS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/djlint --check templates
	$(BIN)/djlint --lint templates
	@echo 'manage.py check --deploy, as on a real host'
	@$(DEPLOYED) $(BIN)/python manage.py check --deploy --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python -m pytest $(PARALLEL)

coverage: $(VENV)/.develops ## Run the tests, and fail if they reach less than 95 % of the code (by hand, takes long)
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term

fix: $(VENV)/.develops ## Format the code and apply automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/djlint --quiet --reformat templates

lock: $(VENV)/.develops ## Compile requirements*.in into requirements*.txt, with hashes (needs the network)
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 requirements.in -o requirements.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 requirements-dev.in -o requirements-dev.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 requirements-fuzz.in -o requirements-fuzz.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 requirements-clients.in -o requirements-clients.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 requirements-aider.in -o requirements-aider.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 requirements-sbom.in -o requirements-sbom.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 -c requirements-dev.txt requirements-cli.in -o requirements-cli.txt

audit: $(VENV)/.develops ## Look for known vulnerabilities in the pinned packages (needs the network)
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements.txt

sbom: $(VENV)/.develops ## List the pinned packages with versions and hashes in sbom.json (CycloneDX)
	$(BIN)/cyclonedx-py requirements requirements.txt --output-reproducible --of JSON -o sbom.json

screenshots: $(VENV)/.develops ## Keep pictures of every page in screenshots/ (by hand; look at them)
	mkdir -p screenshots
	$(BIN)/python -m pytest tests/browser/test_every_page.py

bench: $(VENV)/.develops ## Measure the forwarding path on this machine beside other gateways
	$(BIN)/python -m bench

mutations: $(VENV)/.develops ## Break each promise in a copy of the code and see its tests fail (by hand, takes long)
	$(BIN)/python -m tests.mutations

fronts: $(VENV)/.develops ## Put nginx, Caddy and HAProxy in front of a running Strake (by hand)
	FRONTS=nginx,caddy,haproxy STRAKE_REQUIRE_SERVICES=1 $(BIN)/python -m pytest tests/fronts

clients: $(VENV)/.develops $(CLIENTS)/.node $(CLIENTS)/.python $(CLIENTS)/.aider ## Run agents and SDKs through a running Strake, or some with K=codex (by hand, needs the network)
	CLIENTS=$(CLIENTS) STRAKE_REQUIRE_SERVICES=1 $(BIN)/python -m pytest tests/clients $(if $(K),-k '$(K)')

container: $(VENV)/.develops ## Build the image and run it, Compose's and Kubernetes' containers too (by hand, as root, on Debian)
	CONTAINER=1 STRAKE_REQUIRE_SERVICES=1 $(BIN)/python -m pytest -p no:randomly -rA tests/container

faults: $(VENV)/.develops ## Measure what each fault of hosts, stores and network costs (by hand, as root)
	$(BIN)/python -m tests.harness.faults $(FAULTS)

hostile: $(VENV)/.develops ## Measure what a hostile account costs its neighbours (by hand, takes long)
	$(BIN)/python -m tests.harness.hostile $(HOSTILE)

fuzz: $(VENV)/.fuzzes ## Fuzz every parser and the wire for SECONDS=60 each, or TARGETS="path email" (by hand)
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(TARGETS)

schema: $(VENV)/.develops ## Try EXAMPLES=500 generated requests of each operation of the API (by hand)
	EXAMPLES=$(or $(EXAMPLES),500) $(BIN)/python -m pytest -n 0 tests/credentials/api/test_schema.py

clean: ## Remove .venv and caches, and keep your data in .strake
	rm -rf $(VENV) .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamp files: a list that is newer than its stamp is installed again.
$(VENV)/.runs: requirements.txt | $(BIN)/pip
	@echo 'Installing the packages that Strake needs into $(VENV) …'
	@$(PIP) -r requirements.txt
	@touch $@

# The command line has a virtual environment of its own, since its packages are not the server's.
$(VENV)/.commands: requirements-cli.txt | $(BIN)/pip
	@$(PYTHON) -m venv --clear --without-pip $(VENV)/cli
	@$(BIN)/python -m pip --python $(VENV)/cli/bin/python $(subst -m pip,,$(WHEELS)) -r $<
	@echo '$(CURDIR)/cli' >"$$($(VENV)/cli/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/strake_cli.pth"
	@printf '#!/bin/sh\n# The command line of this checkout: see docs/cli.md.\nSTRAKE_MANAGE="%s" exec %s -m strake_cli "$$@"\n' \
		"'$(abspath $(BIN))/python' '$(CURDIR)/manage.py'" "'$(abspath $(VENV))/cli/bin/python'" >$(BIN)/strake
	@chmod 755 $(BIN)/strake
	@touch $@

$(VENV)/.develops: requirements-dev.txt | $(BIN)/pip
	@echo 'Installing the packages that tests and checks need into $(VENV) …'
	@$(PIP) -r requirements-dev.txt
	@touch $@ $(VENV)/.runs

$(VENV)/.fuzzes: requirements-fuzz.txt $(VENV)/.develops
	@echo 'Installing atheris into $(VENV) …'
	@$(PIP) -r requirements-fuzz.txt
	@touch $@

# Not npm ci, which refuses a list without the packages for other systems. npm keeps to the list and its hashes.
$(CLIENTS)/.node: tests/clients/package.json tests/clients/package-lock.json
	@echo 'Installing programs and SDKs from npm into $(CLIENTS)/node …'
	@mkdir -p $(CLIENTS)/node && cp $^ $(CLIENTS)/node
	@npm install --prefix $(CLIENTS)/node --silent --no-audit --no-fund
	@touch $@

$(CLIENTS)/.python: requirements-clients.txt
	@echo 'Installing SDKs from PyPI into $(CLIENTS)/python …'
	@$(PYTHON) -m venv --clear $(CLIENTS)/python
	@$(CLIENTS)/python/bin/python $(WHEELS) -r $<
	@touch $@

$(CLIENTS)/.aider: requirements-aider.txt
	@echo 'Installing aider from PyPI into $(CLIENTS)/aider …'
	@$(PYTHON) -m venv --clear $(CLIENTS)/aider
	@$(CLIENTS)/aider/bin/python $(WHEELS) -r $<
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Strake needs Python 3.11 or newer as $(PYTHON). Debian 12 and later: apt-get install python3' \
			'— or choose another one: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'This Python cannot create virtual environments. As root: apt-get install python3-venv' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
