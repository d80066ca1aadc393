# Every target sets up all that it needs (see scripts/setup.sh) and then runs; later runs start at once.
#   PY=auto|3.12|3.13|3.14   the interpreter; auto is 3.14 when it can be had
#   ARGS='...'               further arguments for the command
PY ?= auto
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench fuzz docs clean

# An environment that forbids bytecode would have every actor process compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

setup = python=$$(scripts/setup.sh $(PY))

help: ## show this list
	@echo "make TARGET [PY=$(PY)] [ARGS='...']"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

demo: ## boot a tree of actors on every backend and show what it does
	@$(setup) && exec "$$python" -m tractor.demo $(ARGS)

test: ## run the test suite
	@$(setup) && exec "$$python" -m pytest $(ARGS)

lint: ## check style, format, spelling and types
	@$(setup) && bin=$$(dirname "$$python") && failed=0 \
	&& for check in 'ruff check' 'ruff format --check' codespell mypy; do \
		echo "$$check" && "$$bin/"$$check || failed=1; \
	done && exit $$failed

types: ## check the types as every supported Python sees them
	@$(setup) && failed=0 \
	&& for version in 3.12 3.13 3.14; do \
		echo "mypy --python-version $$version" \
		&& "$$python" -m mypy --python-version $$version $(ARGS) || failed=1; \
	done && exit $$failed

bench: ## measure, as ratios to what bare trio and msgspec do on this machine
	@$(setup) && exec "$$python" benchmarks/run.py $(ARGS)

fuzz: ## feed peers and command lines with what they should survive, for ten minutes
	@python=$$(scripts/setup.sh $(PY) fuzz) && exec "$$python" fuzz/run.py $(ARGS)

docs: ## build the documentation into docs/_build/html
	@python=$$(scripts/setup.sh $(PY) docs) \
	&& exec "$$python" -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html $(ARGS)

clean: ## remove environments, caches and results
	rm -rf .venvs .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
