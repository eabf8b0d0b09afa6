# `make demo` and `make test` do everything on a fresh machine with Python 3.10 or newer and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= $(VENV)/demo

.PHONY: install demo test check format clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/bench run --mini --task gtzan --task emo --model mfcc --model chroma --model logmel --model musicnn-mtt \
		--model musicnn-msd --results-dir $(DEMO)
	$(BIN)/bench leaderboard --mini --results-dir $(DEMO)
	$(BIN)/bench leaderboard --task gtzan --task emo --results-dir $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info
