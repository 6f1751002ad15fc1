# `make book` and `make test` on a bare machine: they make .venv and install what they need. `make help` lists the rest.
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PORT ?= 8000
NAME ?=
NBVAL := --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout=300 -n 2 --dist loadscope

# Refuses all connections but loopback, in every process. Not for the whole target: the installation needs the network.
OFFLINE := PYTHONPATH=$(CURDIR)/tests/_guard

# Two processes of one thread each are faster than two of two threads, and the same everywhere.
export OMP_NUM_THREADS ?= 1
# Jupyter's own platform folders; without it, jupyter_core asks for a migration on standard error.
export JUPYTER_PLATFORM_DIRS := 1

.PHONY: help book test lint serve lab student instructor bench zoo clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(STAMP): requirements.txt constraints.txt pyproject.toml
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5) and "Python 3.11.5 or newer is needed; choose one with make PY=python3.12")'
	@test -x $(BIN)/python || $(PY) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV) (about 2 GB, a few minutes the first time) ..."
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

book: $(STAMP)  ## check the sources, execute the notebooks, build the site into _build/html
	$(BIN)/python -m book._tools.build

test: $(STAMP)  ## unit tests (coverage of minidiff at least 95 %), then every cell of every notebook
	$(OFFLINE) $(BIN)/python -m pytest tests -n 2 --cov=minidiff --cov-fail-under=95
	$(OFFLINE) $(BIN)/python -m pytest book $(NBVAL)

lint: $(STAMP)  ## ruff: style, imports, annotations, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

serve: $(STAMP)  ## show _build/html at http://127.0.0.1:8000 (PORT=8000)
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: $(STAMP)  ## open the notebooks in JupyterLab
	OMP_NUM_THREADS= $(BIN)/jupyter lab book

student: $(STAMP)  ## write the edition without solutions to _editions/student
	$(BIN)/python -m book._tools.editions student

instructor: $(STAMP)  ## write the edition with solutions to _editions/instructor
	$(BIN)/python -m book._tools.editions instructor

bench: $(STAMP)  ## measure ours and every installed peer: make bench NAME=..., without NAME the list
	$(BIN)/python -m minidiff.bench $(NAME)

zoo: $(STAMP)  ## retrain the shipped networks from nothing
	$(BIN)/python -m minidiff.zoo

clean:  ## remove what the targets above made, .venv excepted
	rm -rf _build _editions build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage book/appendix/equation-ledger.md
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
