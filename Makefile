# The workshop. PYTHON is any Python >= 3.11 with `pip install -e ".[dev]"`.
PYTHON ?= python
# Processes that run tests beside each other, each with a file of them, in the order of tests/conftest.py.
WORKERS ?= 2

.PHONY: check lint types imports test fast demo docs bench aarch64

check: lint types imports test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

imports:
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

test:
	$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart=0 --no-loadscope-reorder

# A minute or two: what pyproject.toml lists as fast.
fast:
	$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart=0 $$($(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['tool']['nplrp']['fast'])")

demo:
	$(PYTHON) -m nplrp.cli demo -o docs/demo.png
	$(PYTHON) -m nplrp.cli gallery -o docs/gallery.png

# The documentation as a site, in out/site; and the server's page of rules, which is made of the same Markdown.
docs:
	$(PYTHON) docs/making/rules_page.py
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict -d out/site

# PEERS: a Python with torch, zennit and captum (benchmarks/README.md). QUICK=1: one round of everything.
PEERS ?=
QUICK ?=

bench:
	$(PYTHON) benchmarks/run.py $(if $(PEERS),--peers $(PEERS)) $(if $(QUICK),--quick) $(BENCH)

# Bits, kernels, oracle and a golden file on an emulated aarch64 (Debian's qemu-user-static; an hour). SHORT=1: two composites.
SHORT ?=

aarch64:
	$(PYTHON) -m tests.aarch64 $(if $(SHORT),--short)
