"""Configs are accepted or refused by what transformers says of them, in one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import FineGrainedFP8Config, LlamaConfig
from transformers.models.auto import modeling_auto
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

import pico
from bitstack.errors import UserError
from bitstack.original.acceptance import check_config, quantization_of, refuse_adapter

FOLDER = Path("folder")


def refusal(**fields: Any) -> str:
    with pytest.raises(UserError) as error:
        check_config(FOLDER, LlamaConfig(**pico.SIZES, **fields))
    assert "\n" not in str(error.value)
    return str(error.value)


def classes_of(*mappings: Any) -> set[str]:
    def each() -> Iterator[str]:
        for mapping in mappings:
            for names in mapping.values():
                yield from (names,) if isinstance(names, str) else names

    return set(each())


def test_every_causal_class_of_transformers_is_accepted() -> None:
    for name in classes_of(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        check_config(FOLDER, LlamaConfig(**pico.SIZES, architectures=[name]))
    for names in (None, [], ["OldForCausalLM"], ["Gemma3Model", "AForCausalLM"]):
        check_config(FOLDER, LlamaConfig(**pico.SIZES, architectures=names))


def test_every_class_of_another_task_is_refused() -> None:
    causal = classes_of(
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )
    others = classes_of(
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        {"reward": "LlamaForRewardModel"},
    )
    for name in others - causal:
        assert f"{name}, which is no causal language model" in refusal(architectures=[name])


def test_every_quantised_form_is_refused_with_a_way_out() -> None:
    for method in {*AUTO_QUANTIZATION_CONFIG_MAPPING, "unheard"} - {"bitstack"}:
        line = refusal(quantization_config={"quant_method": method})
        assert f"already quantised ({method}; " in line
        assert "give the original 16- or 32-bit model" in line


@pytest.mark.parametrize(
    ("quantization", "way"),
    [
        (
            {"quant_method": "fp8"},
            "=FineGrainedFP8Config(dequantize=True)).save",
        ),
        ({"quant_method": "mxfp4"}, "quantization_config=Mxfp4Config(dequantize=True)).save"),
        ({"quant_method": "compressed-tensors"}, "CompressedTensorsConfig(dequantize=True)).save"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "(MODEL).dequantize().save"),
        ({"quant_method": "bitstack"}, "compress-model export"),
        ({"bits": 4}, "method not named"),
    ],
)
def test_the_way_to_a_dense_model(quantization: dict[str, Any], way: str) -> None:
    assert way in refusal(quantization_config=quantization)


def test_quantisation_is_found_in_every_form() -> None:
    config = LlamaConfig(**pico.SIZES, quantization_config=FineGrainedFP8Config())
    assert quantization_of(config)["quant_method"] == "fp8"
    assert quantization_of(LlamaConfig(**pico.SIZES, quantization_config=None)) == {}


def test_an_adapter_is_to_be_merged_first(tmp_path: Path) -> None:
    refuse_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds an adapter \(adapter_config.json\).*merge it into"):
        refuse_adapter(tmp_path)
