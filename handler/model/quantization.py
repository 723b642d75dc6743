"""Check of QUANTIZATION against the checkpoint's method, under all names of both engines.

The rows follow `_verify_quantization` and `override_quantization_method` of vLLM and SGLang; the
contract tests compare them.
"""

from handler.errors import InvalidSetting

AWQ, GPTQ = frozenset({"awq", "awq-marlin"}), frozenset({"gptq", "gptq-marlin"})
# llm-compressor saves AWQ and GPTQ in the same format, 4-bit integers in compressed-tensors,
# without the name of the algorithm.
INT4 = frozenset({"compressed-tensors-int4"})
FP8 = frozenset({"fp8", "compressed-tensors-fp8", "modelopt-fp8", "fbgemm-fp8"})
MIXED = frozenset({"compressed-tensors"})  # several formats, or one that is neither FP8 nor int4

# QUANTIZATION → the methods in checkpoints, both with dashes.
FAMILIES = {
    "awq": AWQ | INT4,
    "awq-marlin": AWQ | INT4,
    "auto-awq": AWQ | INT4,
    "gptq": GPTQ | INT4,
    "gptq-marlin": GPTQ | INT4,
    "auto-gptq": GPTQ | INT4,
    "marlin": AWQ | GPTQ | INT4,
    "moe-wna16": AWQ | GPTQ,
    "fp8": FP8,
    "deepseek-v4-fp8": frozenset({"fp8"}),
    "w8a8-fp8": MIXED | {"compressed-tensors-fp8"},
    "w8a8-int8": MIXED,
    "auto-round-int8": MIXED,
    "nvfp4": MIXED | {"modelopt"},
    "modelopt-fp4": frozenset({"modelopt", "fp8"}),
    "modelopt-mxfp8": frozenset({"modelopt", "mxfp8"}),
    "modelopt-mixed": frozenset({"modelopt"}),
    "petit-nvfp4": frozenset({"modelopt"}),
    "nvfp4-online": frozenset({"fp8", "modelopt-fp8"}),
    "minimax-m3-nvfp4": frozenset({"mxfp8"}),
    "mxfp8": frozenset({"modelopt"}),
    "mxfp4": frozenset({"gpt-oss-mxfp4"}),
    "gpt-oss-mxfp4": frozenset({"mxfp4"}),
    "inc": frozenset({"auto-round"}),
}
CONTAINERS = ("compressed-tensors", "modelopt")
ANY = frozenset({"humming", "quark-mxfp4"})  # kernels or another format, for any checkpoint
# Methods that an engine cannot compute from unquantized weights while it loads them.
ONLY_IN_CHECKPOINTS = frozenset(
    "awq awq-marlin auto-awq gptq gptq-marlin auto-gptq marlin moe-wna16 compressed-tensors".split()
)


def method_matches(setting: str, method: str) -> bool:
    """Whether QUANTIZATION=setting fits a checkpoint with this quantization method."""
    setting, method = setting.replace("_", "-"), method.replace("_", "-")
    return (
        setting == method
        or setting in ANY
        or method in FAMILIES.get(setting, ())
        or (setting in CONTAINERS and method.startswith(setting))
    )


def check_quantization(setting: str, method: str | None, name: str) -> None:
    """Compare QUANTIZATION with the checkpoint; engines can quantize an unquantized one.

    Raises:
        InvalidSetting: they contradict each other.
    """
    if method is None:
        if setting.replace("_", "-") in ONLY_IN_CHECKPOINTS:
            raise InvalidSetting(
                f"QUANTIZATION={setting!r} contradicts the checkpoint: {name} is not quantized. "
                "Leave QUANTIZATION unset, or choose a quantized model."
            )
    elif setting != "auto" and not method_matches(setting, method):
        raise InvalidSetting(
            f"QUANTIZATION={setting!r} contradicts the checkpoint: {name} is quantized as "
            f"{method!r}. Leave QUANTIZATION unset, or choose another model."
        )
