"""What the arguments of `from_pretrained` mean for a container: variant, budget, device map.

transformers hands a quantizer few of them. Does not load anything; see `live.quantizer`.
"""

import sys
from typing import Any

from transformers import PreTrainedConfig

from bitstack.errors import UserError

METHOD = "bitstack"  # in the quantization_config
VARIANT = "bitstack"  # in the names of the files, or transformers would take them for its own


def check_variant() -> None:
    """Checks the variant of the `from_pretrained` that runs, before it looks for files.

    transformers would only say that `model.safetensors` is not there. It gives the variant to no
    quantizer, so it is read in the frame of the call.

    Raises:
        UserError: The variant is not that of containers.
    """
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "from_pretrained":
        frame = frame.f_back
    asked = {} if frame is None else frame.f_locals
    if asked.get("variant", VARIANT) != VARIANT:
        name = str(asked.get("pretrained_model_name_or_path"))
        raise UserError(
            f"{name}: is a container of bitstack; write from_pretrained({name!r}, "
            f'variant="{VARIANT}"), or for lm_eval --model_args pretrained={name},variant={VARIANT}'
        )


def check_device_map(device_map: Any) -> None:
    """Raises UserError for a device map that puts blocks where they cannot run."""
    if not isinstance(device_map, dict):
        return
    kinds = {name: str(place).split(":")[0] for name, place in device_map.items()}
    # A part on the CPU beside a GPU is offloaded; a model all on the CPU runs there.
    refused = ["disk"] if set(kinds.values()) <= {"cpu", "disk"} else ["cpu", "disk"]
    for name, kind in kinds.items():
        if kind in refused:
            raise UserError(
                f"device_map: puts {name or 'the model'} on {kind}, but blocks are not "
                "offloaded; give a budget that fits the other devices, or device_map='cpu'"
            )


def _budget(config: Any) -> Any:
    """The budget in a config; None without one."""
    quantized = getattr(config, "quantization_config", None)
    return quantized.get("budget") if isinstance(quantized, dict) else None


def _set_budget(config: Any, budget: str | int | None) -> None:
    """Puts a budget into the config of a container.

    Raises:
        UserError: It is the config of another model.
    """
    quantized = getattr(config, "quantization_config", None)
    if not isinstance(quantized, dict) or quantized.get("quant_method") != METHOD:
        raise UserError(
            f"bitstack_budget {budget}: is for containers, and this is another model; leave it out"
        )
    quantized["budget"] = budget


# `from_pretrained` gives a config those keywords that it has as attributes.
PreTrainedConfig.bitstack_budget = property(_budget, _set_budget)  # type: ignore[attr-defined]
