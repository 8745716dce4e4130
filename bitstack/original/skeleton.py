"""Makes the model of a config without weights, as `from_pretrained` would before it reads them.

Does not read a folder; see `original.source`.
"""

from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights


def skeleton(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Returns the model of `config` with parameters on the meta device and real buffers.

    Dtypes are those that `from_pretrained` would give.
    """
    with init_empty_weights(include_buffers=False), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    widen(model, dtype)
    with torch.no_grad():
        model.initialize_weights()  # buffers that a constructor makes in `dtype` alone
    model.tie_weights()
    return model.eval()


def widen(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Casts to fp32 what transformers keeps in fp32 whatever the dtype, such as routers."""
    kept = model._get_dtype_plan(dtype)  # pattern of names -> dtype
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        for pattern, wide in kept.items():
            if pattern in name:
                tensor.data = tensor.data.to(wide)


def tie(model: Any) -> None:
    """Makes tied parameters one object again, where both are still parameters."""
    for target, origin in model.all_tied_weights_keys.items():
        module, key = module_and_key(model, target)
        home, name = module_and_key(model, origin)
        if key in module._parameters and name in home._parameters:
            module._parameters[key] = home._parameters[name]


def module_and_key(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Returns the module that holds the tensor `name`, and what the tensor is called there."""
    module, _, key = name.rpartition(".")
    return model.get_submodule(module), key
