"""Names of flags that do not reach vLLM: those of its server, and those that are gone."""

# Flags of vLLM's own HTTP server, which does not run here, and of what the worker decides. A
# container's environment often holds PORT, HOST or ROOT_PATH for another program.
REFUSED = frozenset(
    """
    help headless api_server_count config grpc grpc_port host port uds root_path middleware
    uvicorn_log_level disable_uvicorn_access_log disable_access_log_for_endpoints
    allow_credentials allowed_origins allowed_methods allowed_headers api_key
    ssl_keyfile ssl_certfile ssl_ca_certs enable_ssl_refresh ssl_cert_reqs ssl_ciphers
    enable_request_id_headers disable_fastapi_docs enable_offline_docs
    h11_max_incomplete_event_size h11_max_header_count data_parallel_supervisor_port
    dp_supervisor_probe_interval_s dp_supervisor_probe_timeout_s
    dp_supervisor_probe_failure_threshold model model_tag served_model_name revision
    hf_token log_level log_config_file
    """.split()
)

# Names that people have in their endpoints from older workers and older engines.
REMOVED = {
    "MAX_CONTEXT_LEN_TO_CAPTURE": "use COMPILATION_CONFIG with max_cudagraph_capture_size.",
    "MAX_SEQ_LEN_TO_CAPTURE": "use MAX_CUDAGRAPH_CAPTURE_SIZE.",
    "CUDA_GRAPH_SIZES": "use CUDAGRAPH_CAPTURE_SIZES.",
    "DISABLE_LOG_REQUESTS": "requests are not logged unless ENABLE_LOG_REQUESTS=true.",
    "GUIDED_DECODING_BACKEND": "use STRUCTURED_OUTPUTS_CONFIG with a backend.",
    "SWAP_SPACE": "the engine recomputes preempted requests; use KV_OFFLOADING_SIZE to offload.",
    "PREEMPTION_MODE": "the engine always recomputes preempted requests.",
    "USE_V2_BLOCK_MANAGER": "there is only one block manager.",
    "NUM_LOOKAHEAD_SLOTS": "the engine sets them from SPECULATIVE_CONFIG.",
    "NUM_SCHEDULER_STEPS": "use ASYNC_SCHEDULING.",
    "SCHEDULER_DELAY_FACTOR": "the scheduler has no delay any more.",
    "ROPE_SCALING": "use HF_OVERRIDES with rope_parameters.",
    "ROPE_THETA": "use HF_OVERRIDES with rope_parameters.",
    "TOKENIZER_POOL_SIZE": "the tokenizer needs no pool any more.",
    "TOKENIZER_POOL_TYPE": "the tokenizer needs no pool any more.",
    "TOKENIZER_POOL_EXTRA_CONFIG": "the tokenizer needs no pool any more.",
    "QUANTIZATION_PARAM_PATH": "scales are read from the checkpoint.",
    "LORA_EXTRA_VOCAB_SIZE": "adapters cannot add tokens any more.",
    "LONG_LORA_SCALING_FACTORS": "long LoRA is gone.",
    "WORKER_USE_RAY": "use DISTRIBUTED_EXECUTOR_BACKEND=ray.",
    "DEVICE": "the engine finds the device itself.",
    "OPENAI_RESPONSE_ROLE": "use RESPONSE_ROLE.",
    "RAW_OPENAI_OUTPUT": "the OpenAI route always streams raw events.",
    "DEFAULT_BATCH_SIZE": "streams are paced by the worker.",
    "DEFAULT_MIN_BATCH_SIZE": "streams are paced by the worker.",
    "DEFAULT_BATCH_SIZE_GROWTH_FACTOR": "streams are paced by the worker.",
    "VLLM_CONFIG_FILE": "set the flags as variables, or in ENGINE_ARGS.",
    "VLLM_ATTENTION_BACKEND": "use ATTENTION_BACKEND.",
    "VLLM_PORT": "the worker has no inner server.",
    "VLLM_STARTUP_TIMEOUT": "the platform's RUNPOD_INIT_TIMEOUT bounds the start.",
}
