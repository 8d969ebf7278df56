# make demo   make a video with the embedded model, and say where it is and how it was made
# make test   run all tests, or some: make test ARGS="tests/test_flow.py -k euler"
# make lint   style and types
#
# Each makes .venv and installs what it needs, once; again when pyproject.toml changes.

PYTHON ?= python3
# One PyTorch that everything here was tested with. Another release or build is chosen when .venv is made.
TORCH ?= torch==2.13.0

BIN := .venv/bin
READY := .venv/.ready
READY_TO_TEST := .venv/.ready-to-test
PROMPT := a big tropical fish swims to the left under water

.PHONY: demo test lint

demo: $(READY)
	@$(BIN)/lichtspiel generate "$(PROMPT)" --upscale 4 -o demo.mp4 --sheet demo.png --force
	@echo
	@$(BIN)/lichtspiel verify demo.mp4

test: $(READY_TO_TEST)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(READY_TO_TEST)
	@scripts/lint

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "Installing into .venv; this takes some minutes the first time, because PyTorch is large."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[moderation]'
	@touch $@

$(READY_TO_TEST): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@
