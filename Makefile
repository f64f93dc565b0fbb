# Everything runs in .venv, which scripts/setup_env.py makes from the hashed lock.
# ARGS goes to the program behind a target: make test ARGS="-k blend".

PYTHON ?= python3
ARGS ?=

RUN := .venv/bin/python -m

.PHONY: help setup demo test check kafka proof reference wheel lock clean

help:  ## print these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

setup:  ## make .venv, which the others do when it is needed
	@"$(PYTHON)" scripts/setup_env.py

demo: setup  ## show Feedloom at work
	@$(RUN) feedloom demo $(ARGS)

test: setup  ## run the tests in two processes; ARGS="-n 0" in one
	@$(RUN) pytest -n 2 --dist loadgroup $(ARGS)

check: setup  ## lint, format, types and the one-way imports
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@.venv/bin/lint-imports --no-logo

kafka:  ## start an Apache Kafka of its own until Ctrl-C; ARGS="--brokers 3" for three
	@"$(PYTHON)" scripts/kafka_broker.py $(ARGS)

proof: setup  ## fault matrix, soak, simulation, what-if and rules over many seeds: hours; needs the extra `bench`; ARGS=--ours is quicker
	@.venv/bin/python scripts/proof_faults.py
	@.venv/bin/python scripts/proof_soak.py
	@.venv/bin/python scripts/proof_simulation.py $(ARGS)
	@.venv/bin/python scripts/proof_what_if.py
	@.venv/bin/python scripts/proof_rules.py

reference: setup  ## make docs/policy.md and its JSON Schema anew, from the types of the policy
	@$(RUN) feedloom.policy_reference

wheel: setup  ## build the wheel, install it elsewhere and try it
	@.venv/bin/python scripts/check_wheel.py

lock:  ## pin every dependency anew; ARGS=--upgrade takes newer versions
	@"$(PYTHON)" scripts/write_lock.py $(ARGS)

clean:  ## remove what was made
	rm -rf .venv build dist feedloom-demo ./*.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
