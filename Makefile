# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[pusht,metaworld,test]'
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[robomimic]' || \
	  echo "robomimic is not installed (it compiles egl_probe: cmake below 4, a compiler): its tests skip"
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m pcm_policy.cli.demo outputs/demo

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --durations 40

clean:
	rm -rf $(VENV) outputs
