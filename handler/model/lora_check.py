"""Check that the engines can serve a LoRA adapter with a model, from their files alone.

vLLM refuses an unsupported adapter only after the weights are loaded; SGLang ignores its unknown
parts, so its output differs from that of the trained adapter.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.errors import InvalidSetting
from handler.model import mistral
from handler.model.attention import text_config
from handler.model.checkpoint import file_names, json_object, model_config
from handler.model.hub_files import LORA_FILES
from handler.model.safetensors import Tensor, tensors_in_file, tensors_in_folder

WEIGHTS_FILE = "adapter_model.safetensors"
# Whole modules that both engines accept: the head of a classifier.
SAVED_MODULES = frozenset({"classifier", "score"})
# Fields of adapter_config.json that change what is computed, and that no engine implements.
UNSUPPORTED_FIELDS = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA biases",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}
# Initialisations that also change the base model; the others only set the adapter's weights.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq")
# Tensors that vLLM accepts beside those of LoRA.
ACCEPTED_TENSORS = re.compile(r".*\.(base_layer\.weight|(score|classifier)\.(weight|bias))")
LORA_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?[AB](?:\.weight)?")
LAYER = re.compile(r"(?:layers|h|blocks)\.(\d+)\..*")
OTHER_TOWER = re.compile(
    r"vis|audio|speech|encoder|cross"
)  # other towers have a hidden size of their own
INPUT_IS_HIDDEN = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj")


def check_adapter(name: str, adapter: Path, model: Path | None) -> None:
    """Check an adapter's features, and that its tensors belong to modules of the model.

    Args:
        name: the adapter's, for errors.
        adapter: its folder.
        model: the folder of the model, None if that is not known yet.

    Raises:
        InvalidSetting: the engines cannot serve it, with the reason.
        ModelUnavailable: a file cannot be read.
    """
    config = json_object(adapter / LORA_FILES[0])
    problem = _unsupported(config)
    weights = adapter / WEIGHTS_FILE
    if problem is None and model is not None and weights.is_file():
        tensors = tensors_in_file(weights)
        adapted = [each for each in tensors if LORA_TENSOR.fullmatch(each.name)]
        problem = _unusable(tensors, adapted) or _mismatch(adapted, model)
        if problem is not None and (base := config.get("base_model_name_or_path")):
            problem += f" (it was trained on {base})"
    if problem is not None:
        raise InvalidSetting(f"LORA_MODULES: {name} cannot be served: {problem}.")


def _unsupported(config: Mapping[str, Any]) -> str | None:
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind != "LORA":
        return f"it is {kind}, and the engines support only LORA"
    for field, title in UNSUPPORTED_FIELDS.items():
        if config.get(field):
            return f"the engines do not implement {title} ({field})"
    if (bias := config.get("bias") or "none") != "none":
        return f"the engines do not implement trained biases (bias={bias!r})"
    modules = config.get("modules_to_save") or ()
    saved = set([modules] if isinstance(modules, str) else modules) - SAVED_MODULES
    if saved:
        return f"the engines do not replace whole modules (modules_to_save={sorted(saved)})"
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(CHANGED_BASE):
        return (
            f"init_lora_weights={init!r} also changed the base model: convert it to plain LoRA "
            "with PEFT's path_initial_model_for_weight_conversion"
        )
    return None


def _unusable(tensors: Sequence[Tensor], adapted: Sequence[Tensor]) -> str | None:
    """Return what is wrong with the tensors themselves, whatever the model."""
    if not adapted:
        return f"{WEIGHTS_FILE} has no LoRA tensors, whose names end in lora_A.weight"
    if empty := [each.name for each in adapted if 0 in each.shape]:
        return (
            f"{WEIGHTS_FILE} has empty tensors such as {empty[0]}: save it again from all ranks "
            "of the training (DeepSpeed ZeRO-3 leaves each rank a part)"
        )
    names = {each.name for each in adapted}
    others = [each.name for each in tensors if each.name not in names]
    if unknown := [name for name in others if not ACCEPTED_TENSORS.fullmatch(name)]:
        return f"the engines support only LoRA tensors, and {WEIGHTS_FILE} also has {unknown[0]}"
    return None


def _mismatch(tensors: list[Tensor], model: Path) -> str | None:
    config = text_config(model_config(model))
    modules = {_module(tensor.name.rpartition(".")[0]) for tensor in tensors_in_folder(model)}
    if not tensors or not modules:
        return None
    modules.add("lm_head")  # which has no tensor of its own where it is tied to the embeddings
    adapted = {_module(LORA_TENSOR.sub(r"\1", tensor.name)): tensor for tensor in tensors}
    missing = [module for module in adapted if module not in modules]
    layers, hidden = config.get("num_hidden_layers"), config.get("hidden_size")
    deepest = max((int(found[1]) for each in missing if (found := LAYER.match(each))), default=0)
    if isinstance(layers, int) and deepest >= layers:
        return f"it has a layer {deepest}, and the model has {layers} layers"
    # The engines rename the modules of Mistral's own format while they load it.
    if len(missing) == len(adapted) and not mistral.is_used(file_names(model)):
        return f"the model has none of the adapter's modules, such as {missing[0]}"
    sizes = {
        tensor.shape[-1]
        for tensor in tensors
        if tensor.name.endswith((".lora_A.weight", ".lora_A"))
        and not OTHER_TOWER.search(tensor.name)
        and LORA_TENSOR.sub(r"\1", tensor.name).rpartition(".")[2] in INPUT_IS_HIDDEN
    }
    if isinstance(hidden, int) and sizes - {hidden}:
        return f"its hidden size is {min(sizes - {hidden})}, and the model's is {hidden}"
    return None


def _module(name: str) -> str:
    """Return a module's name from its layer on; the prefix differs between libraries."""
    found = re.search(rf"(?:^|\.)({LAYER.pattern})", name)
    return found[1] if found else name.rpartition(".")[2]
