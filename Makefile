# Every target sets up what it needs in .venv; the second run finds it there.
.PHONY: demo test smoke notebooks lint sanitize format docs wheel clean
.DEFAULT_GOAL := demo

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
PROMPT := def read_lines(path):
SAMPLING := --temperature 0.6 --top-p 0.9 --seed 2

$(BIN)/python:
	@sh tools/bootstrap.sh $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing ariel-jax into $(VENV)"
	@$(PIP) -e .
	@touch $@

# torch first and alone: a resolver that meets it among other packages may pick another build.
$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo "installing ariel-jax and its test tools into $(VENV)"
	@$(PIP) "$(TORCH)"
	@$(PIP) -e ".[test]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed
	@$(PIP) -e ".[docs]"
	@touch $@

# Streams text from the small model that the package ships.
demo: $(VENV)/.installed
	@echo 'ariel-jax generate --prompt "$(PROMPT)" $(SAMPLING)'
	@$(BIN)/ariel-jax generate --prompt "$(PROMPT)" $(SAMPLING)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# Every experiment at its smallest scale.
smoke: $(VENV)/.installed-test
	$(BIN)/python tools/smoke.py

# Every notebook's script at its smallest scale, and whether script and notebook say the same.
notebooks: $(VENV)/.installed-test
	$(BIN)/python tools/notebooks.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tools/check_files.py
	$(BIN)/codespell --toml pyproject.toml ariel_jax docs experiments tests tools *.md
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright --pythonpath $(BIN)/python

# The C++ kernels alone, under the sanitizers of the compiler.
sanitize: | $(BIN)/python
	$(BIN)/python tools/sanitize.py

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Builds the wheel and uses it where the checkout cannot be seen.
wheel: $(VENV)/.installed-test
	$(BIN)/python tools/check_wheel.py

clean:
	rm -rf $(VENV) .cache docs/_build docs/reference build dist results
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
