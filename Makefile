# Every chore of the project. `make demo` and `make test` need nothing but Python 3.10+, make and a package registry:
# they make their own virtual environment in .venv.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
DEMO_OPTIONS ?=
export PATH := $(CURDIR)/bin:$(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test test-slow test-long lint format paper paper-quick bench lock clean distclean

help:
	@echo "make demo       the whole job on the embedded data: speech, training over several jobs, decoding, word error rate"
	@echo "make test       the tests, but for those marked slow"
	@echo "make test-slow  the tests marked slow"
	@echo "make test-long  the tests marked long, which .ci/run leaves out"
	@echo "make lint       ruff, mypy, and the layers of the library (import-linter)"
	@echo "make format     let ruff lay out the code"
	@echo "make paper      the comparisons of arXiv:1410.7455, hours (docs/paper.md); make paper-quick: the same shapes, smaller"
	@echo "make bench      measure speed and memory; writes nothing into the source"
	@echo "make lock       resolve requirements-lock.in into requirements-lock.txt again"
	@echo "make clean      remove what runs and tools leave behind; make distclean also removes .venv"

$(READY): requirements-lock.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "nnet3py needs Python 3.10 or newer, and $(PYTHON) is older: run make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "If the module venv or ensurepip is missing, install your system's" \
	  "python3-venv package." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-lock.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q nnet3py
	@$(BIN)/python -c "from nnet3py.kernels.compiled import prepare; prepare()"
	@touch $@

demo: $(READY)
	@cd egs/digits/s5 && ./run.sh $(DEMO_OPTIONS)

test: $(READY)
	$(BIN)/python -m pytest -m "not slow and not long" --numprocesses=auto --dist=loadfile $(PYTEST_OPTIONS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not long" --numprocesses=auto --dist=loadfile $(PYTEST_OPTIONS)

test-long: $(READY)
	$(BIN)/python -m pytest -m long --numprocesses=auto --dist=loadfile $(PYTEST_OPTIONS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

paper: $(READY)
	@cd egs/digits/s5 && local/paper/run.py --print-args=false --size=full --work=exp/paper
	@cd egs/digits/s5 && local/paper/run.py --print-args=false --size=fsdd --work=exp/paper_fsdd

paper-quick: $(READY)
	@cd egs/digits/s5 && local/paper/run.py --print-args=false --size=quick --work=exp/paper_quick

bench: $(READY)
	$(BIN)/python benchmarks/run.py

lock:
	@rm -rf build/lock && $(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	@build/lock/bin/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate \
	  requirements-lock.in -o build/lock/resolved.txt
	@{ echo "# Made by \`make lock\` from requirements-lock.in: exact versions that the tests pass with, for Python 3.10 to 3.13."; \
	  grep -v '^\.$$' build/lock/resolved.txt; } > requirements-lock.txt

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache egs/*/s5/data egs/*/s5/exp
	find nnet3py steps tests benchmarks egs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
