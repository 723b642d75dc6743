"""The input of SGLang's own routes, and the list of fields that callers may use.

These routes accept SGLang's internal request object, which also has fields for the addresses of
other processes and servers.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from handler.errors import InvalidInput

OWN_ROUTES = frozenset({"/generate", "/encode", "/classify"})
CALLER_FIELDS = frozenset(
    "text input_ids input_embeds image_data video_data audio_data modalities sampling_params "
    "stream return_logprob logprob_start_len top_logprobs_num token_ids_logprob "
    "return_text_in_logprobs return_prompt_token_ids return_hidden_states "
    "return_pooled_hidden_states return_entropy return_sampling_mask sampling_logprobs_mode "
    "return_routed_experts routed_experts_start_len return_flat_raw_top_logprobs "
    "return_flat_raw_output_top_logprobs return_flat_raw_top_logprobs_b64 return_indexer_topk "
    "lora_path custom_logit_processor rid priority extra_key routing_key routed_dp_rank "
    "data_parallel_rank require_reasoning max_thinking_tokens watermark mm_processor_kwargs "
    "images_config video_config use_audio_in_video max_dynamic_patch min_dynamic_patch "
    "image_max_dynamic_patch video_max_dynamic_patch dimensions is_cross_encoder_request "
    "cache_salt no_logs".split()
)


def takes_sglang_input(path: str, request_fields: Mapping[str, Collection[str]]) -> bool:
    """Whether a path takes SGLang's own input; vLLM's `/classify` has OpenAI's fields."""
    return path in OWN_ROUTES and "input" not in request_fields.get(path, ("input",))


def sglang_body(path: str, body: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """Return the body of one of SGLang's own routes.

    Args:
        path: the engine's path.
        body: the request body; its `model` is one of `models`.
        models: the name of the served model, then those of its LoRA adapters.

    Raises:
        InvalidInput: the body has an unknown field or LoRA adapter.
    """
    own = {name: value for name, value in body.items() if name != "model"}
    for name in own:
        if name not in CALLER_FIELDS:
            near = difflib.get_close_matches(name, CALLER_FIELDS, n=1)
            advice = f": did you mean {near[0]!r}?" if near else "."
            raise InvalidInput(f"{path} does not accept the field {name!r}{advice}", name)
    adapters = own.get("lora_path")
    for adapter in adapters if isinstance(adapters, list) else [adapters]:
        if adapter is not None and adapter not in models[1:]:
            known = ", ".join(models[1:]) or "there is none"
            raise InvalidInput(
                f"lora_path must name a LoRA adapter ({known}), got {adapter!r}.", "lora_path"
            )
    if body.get("model") in models[1:]:
        own.setdefault("lora_path", body["model"])
    return own
