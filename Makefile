# Two commands for a fresh machine: `make demo` and `make test`.
# Each makes the virtual environments it needs; `make test` installs Chromium
# too, by apt-get, where it may.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
OTHERS := .venv-others
BENCH := .venv-bench
DOCS := .venv-docs
PARALLEL := -n 2 --dist worksteal

.PHONY: demo test slow bench mutants reliability notebooks docs package lint browser clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

# The whole suite on TensorFlow; then, where there is no TensorFlow, the core of
# it on Torch and on JAX. float32 and mixed policies of the layers are tested on
# TensorFlow only.
test: $(VENV)/.installed $(OTHERS)/.installed browser lint
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest $(PARALLEL)
	KERAS_BACKEND=torch OMP_NUM_THREADS=1 \
		$(OTHERS)/bin/python -m pytest $(PARALLEL) \
		-m "every_backend and not slow"
	KERAS_BACKEND=jax $(OTHERS)/bin/python -m pytest $(PARALLEL) \
		-m "every_backend and not slow and not slow_on_jax"

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# Speed, start-up and memory beside other Glows, in an environment of its own.
bench: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/peers.py

# Which changes of the layers no test notices; goes on where it was stopped.
mutants: $(OTHERS)/.installed
	$(OTHERS)/bin/python -m pip install --quiet -e '.[mutants]'
	KERAS_BACKEND=torch OMP_NUM_THREADS=1 $(OTHERS)/bin/python tools/mutants.py

# Measures every figure of docs/reliability.md; goes on where it was stopped.
reliability: $(VENV)/.installed
	$(BIN)/python experiments/reliability.py --out docs/reliability.md

# Runs notebooks/*.py and writes them, outputs included, as .ipynb.
notebooks: $(VENV)/.installed
	$(BIN)/python notebooks/build.py

# The site: docs/, the API and the command line, into build/site. A link that
# leads nowhere is an error.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict --config-file tools/mkdocs.yml

# What users install: an sdist, the wheel that is made of it, and the quick tests
# in a fresh environment that does not see the repository.
package:
	rm -rf build/package
	$(PYTHON) -m venv build/package/venv
	build/package/venv/bin/python -m pip install --quiet build
	build/package/venv/bin/python -m build --outdir build/package/dist .
	cd build/package && \
		venv/bin/python -m pip install --quiet "$$(echo dist/*.whl)[cpu,test]"
	cp -r tests setup.cfg build/package
	cd build/package && \
		venv/bin/python -m pytest -m "every_backend and not slow" \
		tests/layers tests/flow tests/latent tests/files/test_loading.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[cpu,jax,demo,run-notebooks,test]'
	touch $@

# Torch is pinned because it is by far the largest download: without the pin,
# every newer version would be fetched anew.
$(OTHERS)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(OTHERS)
	$(OTHERS)/bin/python -m pip install --quiet --upgrade pip
	$(OTHERS)/bin/python -m pip install --quiet torch==2.13.0
	$(OTHERS)/bin/python -m pip install --quiet -e '.[jax,test]'
	touch $@

# The tests of the page that `keras-glow demo` serves need Chromium, and are
# skipped without it. It is installed by apt-get where that is allowed.
browser:
	@command -v chromium > /dev/null || { \
		apt-get update -qq && \
		apt-get install -qq -y --no-install-recommends chromium; \
	} > /dev/null 2>&1 || echo "No Chromium: its tests are skipped"

$(BENCH)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH)/bin/python -m pip install --quiet -e '.[cpu,bench]'
	touch $@

# No backend is needed to build the site: nothing of the package is imported.
$(DOCS)/.installed: setup.cfg
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS)/bin/python -m pip install --quiet -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(OTHERS) $(BENCH) $(DOCS) demo build dist mutants *.egg-info
