"""Decides by its config whether a model is one that can be compressed, before weights are read.

What it refuses is told in one line with the way out. Does not look at tensors; see
`original.headers`.
"""

from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils import ADAPTER_CONFIG_NAME

from bitstack.errors import UserError

_CONTAINER = "bitstack"  # quant_method of our own containers
# Names that transformers does not know, of repositories older than its own class, end like this:
_CAUSAL_END = "ForCausalLM"


def refuse_adapter(folder: Path) -> None:
    """Raises UserError where an adapter lies in the folder, beside a model or alone.

    transformers would load the model with it.
    """
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        raise UserError(
            f"{folder}: holds an adapter ({ADAPTER_CONFIG_NAME}), which is not compressed; merge "
            "it into the model first (peft: model.merge_and_unload().save_pretrained(NEW))"
        )


def check_config(folder: Path, config: PretrainedConfig) -> None:
    """Checks that a config is that of a causal language model in 16 or 32 bits.

    Raises:
        UserError: It is quantised, or a model for another task.
    """
    quantised = quantization_of(config)
    if quantised:
        raise UserError(f"{folder}: the model is already quantised {_way_out(quantised)}")
    named = [str(name) for name in config.architectures or ()]
    if named and not any(_is_causal(name) for name in named):
        raise UserError(
            f"{folder}: architectures in config.json is {', '.join(named)}, which is no causal "
            "language model; give one whose architecture ends in ForCausalLM"
        )


def quantization_of(config: PretrainedConfig) -> dict[str, Any]:
    """Returns the config's `quantization_config`, or that of its text part; empty if there is none.

    Where it is no dict, as in a config made in Python, the dict holds its fields.
    """
    for part in (config, config.get_text_config(decoder=True)):
        found: Any = getattr(part, "quantization_config", None)
        if found:
            return dict(found if isinstance(found, dict) else found.to_dict())
    return {}


def _is_causal(architecture: str) -> bool:
    return architecture in set(_causal_classes()) or architecture.endswith(_CAUSAL_END)


def _causal_classes() -> Iterator[str]:
    """Classes that AutoModelForCausalLM opens, or whose text part it opens (text and images)."""
    for mapping in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        for names in mapping.values():
            yield from (names,) if isinstance(names, str) else names


def _way_out(quantization: dict[str, Any]) -> str:
    """Says how it is quantised and how a dense model is had, as far as transformers makes one."""
    method = str(quantization.get("quant_method") or "method not named")
    if method == _CONTAINER:
        return (
            "(it is a container of bitstack); to compress it anew, give the original model, or "
            "write a dense one with `compress-model export`"
        )
    said = f"({method}; quantization_config in config.json); give the original 16- or 32-bit model"
    loading = _dense_loading(method, quantization)
    return f"{said}, or write a dense one: {loading}.save_pretrained(NEW)" if loading else said


def _dense_loading(method: str, quantization: dict[str, Any]) -> str | None:
    """The call of transformers that gives the model dense; None where it has none."""
    load = "AutoModelForCausalLM.from_pretrained(MODEL"
    config: Any = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
    if config is not None and "dequantize" in signature(config.__init__).parameters:
        return f"{load}, quantization_config={config.__name__}(dequantize=True))"
    if method == "bitsandbytes":
        method += "_4bit" if quantization.get("load_in_4bit") else "_8bit"
    quantizer: Any = AUTO_QUANTIZER_MAPPING.get(method)
    if quantizer is not None and quantizer._dequantize is not HfQuantizer._dequantize:
        return f"{load}).dequantize()"
    return None
