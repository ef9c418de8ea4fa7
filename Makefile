# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test clean

# Python keeps what it compiles beside the source, also where PYTHONDONTWRITEBYTECODE is set: every
# process would compile torch again, which takes 4 s.
export PYTHONDONTWRITEBYTECODE =

INSTALL = $(BIN)/pip install -q --no-compile -c constraints.txt -e
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[pusht,metaworld,adroit,test,robomimic14,aloha]' || { \
	  $(INSTALL) '.[pusht,metaworld,adroit,test]'; \
	  $(INSTALL) '.[robomimic14]' || echo "without robomimic (it compiles egl_probe: cmake below 4, a compiler)"; \
	  $(INSTALL) '.[aloha]' || echo "without gym-aloha (labmaze has no wheel for this Python)"; }
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m pcm_policy.cli.demo outputs/demo

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 40

clean:
	rm -rf $(VENV) outputs
