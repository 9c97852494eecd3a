# The workshop. PYTHON is any Python >= 3.11 with `pip install -e ".[dev]"`.
PYTHON ?= python
# Processes that run tests beside each other, each with a file of them.
WORKERS ?= 2

.PHONY: check lint types imports test demo bench aarch64

check: lint types imports test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

imports:
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

test:
	$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile

demo:
	$(PYTHON) -m nplrp.cli demo -o docs/demo.png

# PEERS: a Python with torch, zennit and captum (benchmarks/README.md). QUICK=1: one round of everything.
PEERS ?=
QUICK ?=

bench:
	$(PYTHON) benchmarks/run.py $(if $(PEERS),--peers $(PEERS)) $(if $(QUICK),--quick) $(BENCH)

# Bits, kernels, oracle and a golden file on an emulated aarch64 (Debian's qemu-user-static; an hour). SHORT=1: two composites.
SHORT ?=

aarch64:
	$(PYTHON) -m tests.aarch64 $(if $(SHORT),--short)
