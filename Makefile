# make demo       make a video with the embedded model, and say where it is and how it was made
# make test       run all tests; some of them: make test ARGS="tests/test_flow.py -k euler"
# make lint       style and types
# make coverage   check that the lines of the core rooms are still tested
#
# Each makes .venv and installs what it needs, once; again when pyproject.toml changes. Another Python, or another
# release or build of PyTorch, is chosen when .venv is made (see scripts/install):
#
#   make demo PYTHON=python3.12
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cu128

export PYTHON ?= python3
export TORCH ?= torch==2.13.0
export TORCH_INDEX ?=

BIN := .venv/bin
READY := .venv/.ready
READY_TO_TEST := .venv/.ready-to-test
PROMPT := a big tropical fish swims to the left under water
ARGS ?=

.PHONY: demo test lint coverage

demo: $(READY)
	@$(BIN)/lichtspiel generate "$(PROMPT)" -o demo.mp4 --sheet demo.png --force
	@echo
	@$(BIN)/lichtspiel verify demo.mp4
	@echo
	@echo 'Next: $(BIN)/lichtspiel generate "a big sailboat sails to the left on the sea on a sunny day" -o sailboat.mp4'

# Tests start many processes, which find the sources compiled if Python may keep that.
test: export PYTHONDONTWRITEBYTECODE =

# One process more than there are cores, because some tests wait for servers; four need some 12 GB of memory.
test: $(READY_TO_TEST)
	@cores=$$(getconf _NPROCESSORS_ONLN) && \
	$(BIN)/python -m pytest -n $$((cores + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY_TO_TEST)
	@scripts/lint

coverage: $(READY_TO_TEST)
	@$(BIN)/python -m scripts.coverage

$(READY): pyproject.toml
	@scripts/install moderation
	@touch $@

$(READY_TO_TEST): $(READY)
	@scripts/install dev
	@touch $@
