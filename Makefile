# `make run` and `make test` do all the set-up themselves, once, in .venv.
# The interpreter can be named: make run PYTHON=/path/to/python3.12

PYTHONS = python3.13 python3.12 python3.11 python3
ARGS =
# For two cores: some tests wait for a clock, or for another process.
PROCESSES = 3

.PHONY: help run test thorough test-all lint docs notebook clean

help:  ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/installed  ## run the default study, or what ARGS says: make run ARGS=dry_run=true
	.venv/bin/python jobs/run.py $(ARGS)

test: .venv/installed  ## run the tests, or what ARGS says: make test ARGS=tests/maths
	.venv/bin/python -m pytest -n $(PROCESSES) $(ARGS)

thorough: .venv/installed  ## run whole studies several times, and clusters of which parts are killed
	.venv/bin/python -m pytest -n 2 -m "(thorough or cluster) and not slow and not speed"

test-all: test thorough  ## run both, and what measures time, for which be idle
	.venv/bin/python -m pytest -m "speed and not slow"

lint: .venv/installed  ## check style (ruff) and types (mypy)
	.venv/bin/ruff check .
	.venv/bin/mypy

docs: .venv/installed  ## write docs/tables.md and docs/figures.md anew from schemas and figures
	.venv/bin/python -m universal_ray.report.tables > docs/tables.md.new
	mv docs/tables.md.new docs/tables.md
	.venv/bin/python -m universal_ray.report.figures.docs > docs/figures.md.new
	mv docs/figures.md.new docs/figures.md

notebook: .venv/installed  ## run the notebooks of examples, one on runs/tiny, and keep what they show
	for path in examples/*.ipynb; do .venv/bin/python -c 'import sys, nbclient, nbformat; \
	    notebook = nbformat.read(sys.argv[1], 4); \
	    nbclient.execute(notebook, cwd="examples", record_timing=False); \
	    nbformat.write(notebook, sys.argv[1])' $$path || exit 1; done

clean:  ## remove .venv and everything that was built
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find universal_ray jobs tests -name __pycache__ -prune -exec rm -rf {} +

.venv/installed: requirements.txt pyproject.toml
	@python=; for candidate in $(or $(PYTHON),$(PYTHONS)); do \
	    if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	        2>/dev/null; then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	    echo "No Python 3.11 or newer with its venv module was found among $(or $(PYTHON),$(PYTHONS)):" \
	        "install one (on Debian and Ubuntu also python3-venv), or name it by PYTHON=..." >&2; \
	    exit 1; fi; \
	if ! .venv/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' \
	    2>/dev/null; then \
	    echo "Making .venv with $$python"; $$python -m venv --clear .venv; fi
	@echo "Installing the pinned packages into .venv (once, some minutes)"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --no-build-isolation -e .
	@touch $@
