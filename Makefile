# `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
CLIENTS ?= .venv-clients
BIN := $(VENV)/bin
RUN ?= runs/quickstart
# Prints where an environment's packages are.
SITE := 'import sysconfig; print(sysconfig.get_path("purelib"))'
# The demo's tensors are small: a second thread gains nothing, and costs tenfold where another process wants the core.
export OMP_NUM_THREADS ?= 1
# Keeps freed memory in the process; glibc otherwise returns it to the system and faults it in again in every step.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 2147483648

.PHONY: help install demo test attack wheel-test test-clients lint types docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## make the virtual environment

# torch goes first, alone, so that an already configured CPU wheel is taken where there is one.
# litdata requires torchvision, whose registry build is for CUDA: beside a CPU-only torch it breaks every import of
# transformers, and litdata's token streaming does not use it, so it is taken out again there.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' \
		&& $(BIN)/python -m pip uninstall --quiet --yes torchvision || true
	@touch $@

demo: install ## run the whole pipeline on the embedded default (8 to 14 minutes)
	$(BIN)/jetlit postnas --config configs/quickstart/postnas.yaml --run_dir $(RUN)

test: install ## run the tests, in two processes (GPU tests skip where there is no GPU)
	$(BIN)/python -m pytest --numprocesses 2

attack: install ## draw bad inputs, corrupt files and kill processes, seeded (ATTACKS=N scales the numbers)
	$(BIN)/python -m pytest --numprocesses 2 -m attack

test-clients: $(CLIENTS)/.installed ## run peft, trl, accelerate, bitsandbytes, torchao and transformers' tests on the hybrid
	HF_HUB_OFFLINE=1 $(CLIENTS)/bin/python -m pytest --numprocesses 2 -m "attack or not attack" tests/clients

# Stands on the environment above: torch is not installed twice, and torchvision not at all. transformers' tests are in
# its source distribution alone.
$(CLIENTS)/.installed: $(VENV)/.installed tests/clients/constraints.txt
	$(PYTHON) -m venv --clear $(CLIENTS)
	echo "import site; site.addsitedir('$$($(BIN)/python -c $(SITE))')" > "$$($(CLIENTS)/bin/python -c $(SITE))/project.pth"
	$(CLIENTS)/bin/python -m pip install --quiet --constraint constraints.txt --constraint tests/clients/constraints.txt \
		peft trl accelerate bitsandbytes torchao parameterized
	version=$$($(CLIENTS)/bin/python -c 'import importlib.metadata as m; print(m.version("transformers"))') \
		&& $(CLIENTS)/bin/python -m pip download --quiet --no-deps --no-binary transformers --dest $(CLIENTS) \
			"transformers==$$version" \
		&& tar -xzf "$(CLIENTS)/transformers-$$version.tar.gz" -C $(CLIENTS) --wildcards '*/tests/*.py' \
		&& rm -rf $(CLIENTS)/transformers && mv "$(CLIENTS)/transformers-$$version" $(CLIENTS)/transformers
	@touch $@

wheel-test: install ## install the wheel into a clean environment and start it
	$(BIN)/python .ci/wheel.py

lint: install ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## mypy
	$(BIN)/mypy jetlit kernels data

docs: $(VENV)/.docs ## build the documentation site into build/site, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Not `.[docs]`: that would bring torchvision back.
$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt mkdocs-material 'mkdocstrings[python]'
	@touch $@

clean: ## remove the environment and caches (runs/ stays)
	rm -rf $(VENV) $(CLIENTS) .pytest_cache .mypy_cache .ruff_cache *.egg-info
