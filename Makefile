# Two commands: `make demo` and `make test`. Both set up .venv first, with nothing but Python >= 3.10 on the machine.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test quality format clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(RUN) examples/demo.py --folder demo

test: quality
	$(RUN) tests/support/fetch_transformers_tests.py
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive $(RUN) -m pytest -n 2 --dist worksteal

quality: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/installed
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) demo .cache

# the file appears when the installation is complete, so an interrupted one is taken up again
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "tubevit_hf needs Python 3.10 or newer, got $$($(PYTHON) --version); try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); PyTorch alone is several GB, which takes a few minutes."
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[demo,quality,test]"
	touch $@
