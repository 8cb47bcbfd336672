# Each target makes the virtual environment it needs and installs into it, pinned by
# constraints/. Two Pythons live side by side:
#
#   make test
#   make test PYTHON=python3.12 VENV=.venv-3.12

PYTHON ?= python3
VENV ?= .venv
CONFIG ?=
ARGS ?=

BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&-)
PINS := $(shell $(PYTHON) -c 'import sys; v = sys.version_info; \
	print("" if v < (3, 11) else "python-3.11" if v < (3, 12) else "python-3.12")' 2>&-)
CONSTRAINTS := $(if $(PINS),constraints/$(PINS).txt)

# A stamp is an installed set of extras. Its folder names the Python, so that another
# one makes the environment anew.
STAMPS := $(VENV)/stamps-$(VERSION)
EXTRAS_lab := lab
EXTRAS_test := lab,flax,tensorboard,test
EXTRAS_peers := $(EXTRAS_test),peers

# What stands here is erased when another Python takes its place.
check-venv = $(if $(wildcard $(VENV)),$(if $(wildcard $(VENV)/pyvenv.cfg),,\
	$(error VENV: $(VENV) exists and is no virtual environment; name another path)))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo run config-named test test-all lint mutants bench clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12
	@echo
	@echo 'Python and environment: make test PYTHON=python3.12 VENV=.venv-3.12'

demo: $(STAMPS)/lab ## train sine to cosine, and show where the picture lies
	$(BIN)/jaxlstm run configs/sine_cosine.toml $(ARGS)

run: config-named $(STAMPS)/lab ## train CONFIG=configs/NAME.toml [ARGS="key=value ..."]
	$(BIN)/jaxlstm run $(CONFIG) $(ARGS)

test: $(STAMPS)/test ## run the tests [ARGS="tests/test_rule.py -k mask"]
	$(BIN)/python -m pytest -n 2 -m "not slow and not peers" \
		--ignore=tests/peers $(ARGS)

test-all: $(STAMPS)/peers ## run the tests that `test` leaves out: peers, slow ones
	$(BIN)/python -m pytest -n 2 -m "slow or peers" $(ARGS)

lint: $(STAMPS)/test ## check form and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

mutants: $(STAMPS)/test ## plant faults, and see each one caught [ARGS="NAME ..."]
	$(BIN)/python tests/mutants.py $(ARGS)

bench: $(STAMPS)/peers ## time side by side with peers
	$(BIN)/python benchmarks/run.py $(ARGS)

clean: ## remove the environment and the caches; runs/ stays
	$(check-venv)
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

config-named:
	$(if $(CONFIG),,$(error \
		CONFIG: name one, as in: make run CONFIG=configs/sine_cosine.toml))

$(STAMPS)/venv:
	$(if $(PINS),,$(error PYTHON: $(PYTHON) is $(or $(VERSION),not found); \
		name a Python of 3.11 or later, as in: make test PYTHON=python3.11))
	$(check-venv)
	@echo 'Making $(VENV), Python $(VERSION)'
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir $(STAMPS)
	@touch $@

# The package is built with the pinned hatchling, not in an isolated environment.
$(STAMPS)/%: $(STAMPS)/venv pyproject.toml $(CONSTRAINTS)
	@echo 'Installing jaxlstm[$(EXTRAS_$*)] into $(VENV); the first time takes minutes'
	@$(BIN)/python -m pip install -qq -c $(CONSTRAINTS) hatchling editables
	@$(BIN)/python -m pip install -qq -c $(CONSTRAINTS) --no-build-isolation \
		-e '.[$(EXTRAS_$*)]'
	@touch $@
