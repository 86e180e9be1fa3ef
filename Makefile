# `make app` starts the page, `make test` runs every test, `make quick` the core tests; all set up what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: app test quick lint docs benchmarks clean

app: $(VENV)/.installed
	$(BIN)/python app.py $(ARGS)

test: $(VENV)/.installed chromium
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

# The core: what most changes break. Under 40 s on two cores.
quick: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not browser" $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	if [ -x $(BIN)/biome ]; then $(BIN)/biome ci .; else echo "no biome for this machine: JavaScript is not checked"; fi

# The reference of both packages, from their docstrings: docs/index.html.
docs: $(VENV)/.installed
	$(BIN)/python -m pdoc -d google -o docs hooks hooks.sites workbench workbench.analyses \
	    workbench.results workbench.texts workbench.tokens workbench.plots workbench.generation workbench.report \
	    workbench.views.standalone workbench.views.text_page

benchmarks: $(VENV)/.installed
	$(BIN)/python -m tests.benchmarks

# Compiled with all cores, because pip uses one; some files are for other versions of Python and cannot be compiled.
$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile -r requirements.txt
	$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

# The system's Chromium where there is one; else Debian's package where that can be installed, else Playwright's own.
.PHONY: chromium
chromium: $(VENV)/.installed
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	|| { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	|| $(BIN)/python -m playwright install chromium

clean:
	rm -rf $(VENV)
