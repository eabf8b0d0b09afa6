# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
DEMO ?= $(VENV)/demo
BOARD ?= $(VENV)/board
SITE ?= build/site
BOARD_TASKS ?=
BOARD_MODELS ?=
FAST := -m "not slow"

.PHONY: install demo board docs test test-fast test-cluster test-lowest test-newest gpu check format clean

install: $(STAMP)

# what a user needs, for `make demo` and `make board`
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

# and what a developer needs, in the same environment
$(DEV): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs]'
	touch $(STAMP) $@

# what README.md shows: three encoders without weights on the miniature of one task, then the board
demo: $(STAMP)
	$(BIN)/bench run --mini --task gtzan --model mfcc --model logmel --model chroma --results-dir $(DEMO)
	$(BIN)/bench leaderboard --mini --results-dir $(DEMO)

# nine encoders on the miniatures of MARBLE's fourteen tasks, checked, as a page and as figures; what is there already is not run again
board: $(STAMP)
	$(BIN)/python benchmarks/board.py $(BOARD) $(addprefix --task ,$(BOARD_TASKS)) $(addprefix --model ,$(BOARD_MODELS))
	$(BIN)/bench results check --results-dir $(BOARD)
	$(BIN)/bench leaderboard --mini --results-dir $(BOARD) --cost
	$(BIN)/bench leaderboard --mini --results-dir $(BOARD) --html docs/board.html
	if command -v chromium; then chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars \
		--virtual-time-budget=5000 --window-size=1440,2410 --screenshot=docs/board.png file://$(CURDIR)/docs/board.html; \
	else echo "no chromium here: docs/board.png is left as it was"; fi

# the documentation as a site, $(SITE)/index.html; a warning is an error
docs: $(DEV)
	$(BIN)/sphinx-build -W --keep-going -q docs $(SITE)

test: $(DEV)
	$(BIN)/python -m pytest -n 2

# all but what takes longer than about half a second: a minute on two quiet cores
test-fast: $(DEV)
	$(BIN)/python -m pytest -n 2 $(FAST)

# the tests that need Ray and an S3 server, which `make check` skips: starting clusters takes a minute or more on two cores
test-cluster: $(DEV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,ray,s3]' 'moto[server]'
	$(BIN)/python -m pytest -n 2 tests/test_cluster.py tests/test_remote_store.py

# the fast tests with every direct dependency at its floor, or at its newest release, in an environment of their own; torch comes
# from the pins in both, and first, so that uv keeps that build of it and looks for no other
test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest: ENV = $(VENV)/$@
test-lowest test-newest:
	$(PYTHON) -m venv --clear $(ENV)
	$(ENV)/bin/python -m pip install --quiet --no-deps $$(grep -E '^(torch|uv)==' constraints.txt)
	$(ENV)/bin/python -m pip freeze | grep '^torch==' > $(ENV)/torch.txt
	$(ENV)/bin/uv pip install --quiet --python $(ENV)/bin/python --resolution $(RESOLUTION) -c $(ENV)/torch.txt -e '.[dev]'
	BENCH_TEST_RESOLUTION=$(RESOLUTION) $(ENV)/bin/python -m pytest -n 2 $(FAST)

# what needs a GPU, with the Python that has torch for it: make gpu GPU_PYTHON=python3
GPU_PYTHON ?= $(PYTHON)
GPU_REPORT ?= gpu-report.md
gpu:
	$(GPU_PYTHON) benchmarks/gpu.py $(GPU_REPORT)

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) docs test

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info
