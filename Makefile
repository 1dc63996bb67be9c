# make book: install, build, serve. make test: install, run everything. PORT, PYTHON and JOBS may be set: make book PORT=9000 PYTHON=python3.12; make test JOBS=8
PYTHON ?= python3
PORT ?= 8000
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: help install html book test test-fast lint unit notebooks cold browser clean

help:
	@echo "make book       install into $(VENV), build the book, serve it on 127.0.0.1 (PORT=$(PORT))"
	@echo "make test       install, then every test: library, notebooks, a cold build of the book, the pages in a browser"
	@echo "make test-fast  the library's tests alone"
	@echo "make html       build the book into _build/html      make clean   remove what was built"

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

html: install
	$(BIN)/jupyter-book build . -n -W --keep-going

book: html
	@echo "The book is at http://127.0.0.1:$(PORT)/ (stop with Ctrl-C; PORT= chooses another port)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT) || echo "The server stopped. If port $(PORT) is taken, choose another: make book PORT=9000"

test: lint unit notebooks cold browser

test-fast: unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: install
	$(BIN)/python -m pytest tests --ignore=tests/browser

notebooks: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval-lax notebooks

cold: install
	rm -rf _build
	$(MAKE) html

browser: install
	$(BIN)/python -m pytest -n $(JOBS) tests/browser

clean:
	rm -rf _build build *.egg-info
