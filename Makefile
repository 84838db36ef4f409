# `make help` lists the targets. Each sets up .venv first, with nothing but Python >= 3.10 on the machine.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: help demo space test docs wheel quality format lowest bench clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := demo

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## write videos of moving digits, train on them, classify new ones
	$(RUN) examples/demo.py --folder demo

space: $(VENV)/installed ## open a page on which to try the demo's model
	$(RUN) examples/space/app.py

test: quality ## run every check and test
	$(RUN) tests/support/fetch_transformers_tests.py
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive $(RUN) -m pytest -n 2 --dist worksteal

# the notice that it leaves out is in CONTRIBUTING.md
docs: $(VENV)/installed ## build the site: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

wheel: ## build the wheel and try it in an environment of its own
	$(PYTHON) tests/support/try_wheel.py

quality: $(VENV)/installed ## lint, format, types, and which room imports which
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/pyrefly check
	$(VENV)/bin/lint-imports --no-logo

format: $(VENV)/installed ## mend what ruff can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lowest: $(VENV)/installed ## run the tests with the lowest versions that pyproject.toml allows (20 minutes)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[lowest]"
	$(RUN) tests/support/lowest_versions.py

bench: $(VENV)/installed ## time forward passes and training beside other video Transformers (half an hour)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --target build/torchao "torchao>=0.18"
	PYTHONPATH=build/torchao OMP_WAIT_POLICY=passive $(RUN) benchmarks/speed.py

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-lowest demo site .cache build

# the file appears when the installation is complete, so an interrupted one is taken up again
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "tubevit_hf needs Python 3.10 or newer, got $$($(PYTHON) --version); try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); PyTorch alone is several GB, which takes a few minutes."
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[demo,docs,onnx,openvino,quality,seats,space,test,tune]"
	touch $@
