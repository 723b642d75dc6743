"""Print what SGLang's CUDA build makes of the worker's settings beside some GPUs, as JSON.

It runs in `.venv-sglang-cuda`, where there is no pytest.
"""

import json
import os

import torch

from handler.engine.sglang.adapter import SglangAdapter
from handler.model.resolve import resolve_model
from handler.settings.environ import load_settings

FIELDS = (
    "device",
    "attention_backend",
    "sampling_backend",
    "page_size",
    "chunked_prefill_size",
    "mem_fraction_static",
    "disable_overlap_schedule",
)
LAYER = "model.layers.0.self_attn.o_proj"
SIZE = 4096  # of the layer: Marlin refuses the demo model's 576


def main() -> None:
    environ = dict(os.environ)
    settings = load_settings(environ)
    adapter = SglangAdapter(settings, resolve_model(settings), environ)
    adapter.import_engine(settings, environ)
    adapter.check_flags()

    from sglang.srt.arg_groups.overrides import model_config_of, resolved_view
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.layers.linear import LinearBase
    from sglang.srt.model_loader.loader import _get_quantization_config

    view, model = resolved_view(adapter._args), model_config_of(adapter._args)
    layer = LinearBase.__new__(LinearBase)
    torch.nn.Module.__init__(layer)
    layer.input_size = layer.output_size = SIZE
    config = _get_quantization_config(model, LoadConfig())
    scheme = None
    if config is not None:
        config.get_quant_method(layer, LAYER)
        scheme = type(layer.scheme).__name__
    graphs = view.cuda_graph_config
    print(
        json.dumps(
            {name: getattr(view, name) for name in FIELDS}
            | {
                "quantization": model.quantization,
                "scheme": scheme,
                "graph_batch": graphs.decode.max_bs,
                "compilers": os.environ["MAX_JOBS"],
            }
        )
    )


if __name__ == "__main__":
    main()
