# `make run` and `make test` do all the set-up themselves, once, in .venv.
# The interpreter can be named: make run PYTHON=/path/to/python3.12

PYTHONS = python3.13 python3.12 python3.11 python3
ARGS =

.PHONY: run test lint clean

run: .venv/installed
	.venv/bin/python jobs/run.py $(ARGS)

test: .venv/installed
	.venv/bin/python -m pytest $(ARGS)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/mypy

clean:
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
