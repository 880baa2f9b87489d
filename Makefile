# Everything a developer does here, from a machine with only make and Python 3.11 or newer.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first Python that is new enough. Each is run, not looked up: a shim may be a name only.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$python"; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help setup run test check format bench screenshots clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Create .venv with everything in it (PYTHON=… chooses the Python)

run: $(INSTALLED) ## Serve the page (ARGS="--port 8000"; make run ARGS=--help)
	$(BIN)/python app.py $(ARGS)

test: $(INSTALLED) ## Run the tests (ARGS="-k recipe" chooses among them)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: $(INSTALLED) ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy tuner app.py

format: $(INSTALLED) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What the measurements import or start with arguments; the rest of bench/ is measurements.
PARTS := $(addprefix bench/,code_rows.py laps.py llama_factory.py plain_trl.py watch.py)
MEASUREMENTS = $(filter-out $(PARTS),$(wildcard bench/*.py))

bench: $(INSTALLED) ## Run the measurements in bench/, one after the other
	@failed=; for script in $(MEASUREMENTS); do \
		echo "== $$script"; PYTHONPATH=. $(BIN)/python "$$script" || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "Failed:$$failed"; exit 1; }

screenshots: $(INSTALLED) ## Take the pictures in docs/images/ anew (needs Chromium)
	PYTHONPATH=. $(BIN)/python docs/screenshots.py

clean: ## Remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Written last, so an installation that was interrupted is taken up again.
$(INSTALLED): requirements.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { \
		echo "Tuner needs Python 3.11 or newer, and there is none on the PATH."; \
		echo "Install it, or name it: make setup PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot create virtual environments: its venv or ensurepip is missing."; \
		echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@# torch alone and first: see the top of requirements.txt.
	$(BIN)/python -m pip install "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install -r requirements.txt -r requirements-dev.txt
	@touch $@
