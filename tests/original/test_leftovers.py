"""What the files hold and the model does not is left out and named, refused, or of no matter."""

from pathlib import Path

import pytest
import torch

import pico
from bitstack.errors import UserError
from bitstack.original.leftovers import left_out_line, parts_left_out
from bitstack.original.skeleton import skeleton

FOLDER = Path("folder")


def parts(name: str, **unknown: tuple[int, ...]) -> list[str]:
    model = skeleton(pico.FAMILIES[name](), torch.float32)
    return parts_left_out(FOLDER, model, {k.replace("__", "."): v for k, v in unknown.items()})


def test_layers_too_many_are_named_in_their_order() -> None:
    layers = {f"model__layers__{i}__eh_proj__weight": (32, 64) for i in (10, 2, 9)}
    assert parts("llama-tied", **layers) == [f"model.layers.{i}" for i in (2, 9, 10)]
    norm = {"h__2__ln_1__weight": (36,)}  # saved without the head, and so without a prefix
    assert parts("gpt-2", **norm) == ["transformer.h.2"]


def test_modules_of_their_own_are_named() -> None:
    assert parts("llama-tied", mtp__fc__weight=(32, 64), mtp__norm__weight=(32,)) == ["mtp"]
    assert parts("llama-tied", model__vision__weight=(8, 8)) == ["model.vision"]


def test_old_buffers_are_of_no_matter() -> None:
    assert parts("llama-tied", model__layers__0__self_attn__rotary_emb__inv_freq=(4,)) == []
    assert parts("gpt-2", h__0__attn__bias=(1, 1, 8, 8), h__0__attn__masked_bias=()) == []


@pytest.mark.parametrize("key", ["bias", "weight_scale_inv", "lora_A.weight"])
def test_a_part_of_a_matrix_is_refused(key: str) -> None:
    name = f"model__layers__0__mlp__up_proj__{key.replace('.', '__')}"
    with pytest.raises(UserError, match=rf"hold model\.layers\.0\.mlp\.up_proj\.{key}, which the"):
        parts("llama-tied", **{name: (4,)})


def test_a_long_list_is_cut() -> None:
    line = left_out_line([f"model.layers.{i}" for i in range(9)])
    assert "model.layers.0, model.layers.1, model.layers.2, model.layers.3 and 5 more" in line
    assert "\n" not in line
