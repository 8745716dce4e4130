"""A pass without weights sees what a pass with them does, and leaves the model as it was."""

import pytest
import torch
from transformers import AutoModelForCausalLM, RwkvConfig

import pico
from bitstack.original.dry_pass import Use, dry_pass
from bitstack.original.matrices import find_matrices
from bitstack.original.skeleton import skeleton


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_every_parameter_of_a_text_model_is_reached(name: str) -> None:
    model = skeleton(pico.FAMILIES[name](), torch.float32)
    seen = dry_pass(model)
    assert seen.error is None
    # Of the experts only those that the router picks: all of a layer where they are one tensor.
    assert all(seen.reached(n) for n, _ in model.named_parameters())
    assert all(p.is_meta for p in model.parameters())


def test_the_cache_is_that_of_a_real_pass() -> None:
    config = pico.FAMILIES["qwen3"]()
    real = AutoModelForCausalLM.from_config(config)(torch.tensor([[1, 2, 3, 4, 5]]))
    dry = dry_pass(skeleton(config, torch.float32), tokens=5)
    shapes = [[layer.keys.shape for layer in x.layers] for x in (real.past_key_values, dry.cache)]
    assert shapes[0] == shapes[1]


def test_uses_name_the_function_and_the_argument() -> None:
    seen = dry_pass(skeleton(pico.FAMILIES["mixtral"](), torch.float32))
    assert seen.uses["lm_head.weight"] == {Use("torch.nn.functional.linear", 1, False)}
    experts = "model.layers.0.mlp.experts.down_proj"
    assert seen.uses[experts] == {Use("torch.nn.functional.linear", 1, True)}


def test_the_experts_are_computed_as_before_afterwards() -> None:
    model = skeleton(pico.FAMILIES["mixtral"](), torch.float32)
    before = model.config._experts_implementation
    dry_pass(model)
    assert model.config._experts_implementation == before


def test_a_model_that_needs_values_says_so_and_counts_as_reached() -> None:
    model = skeleton(pico.FAMILIES["opt"](), torch.float32)

    def needy(*_: object, **__: object) -> None:
        raise ValueError("no values")

    model.forward = needy  # type: ignore[method-assign]
    seen = dry_pass(model)
    assert str(seen.error) == "no values"
    assert seen.reached("model.decoder.embed_tokens.weight")


def test_uses_through_lists_and_pieces_are_seen() -> None:
    class Model(torch.nn.Linear):
        config = pico.FAMILIES["opt"]()

        def set_experts_implementation(self, name: str | None) -> None: ...

        def forward(self, ids: torch.Tensor, **_: object) -> dict[str, object]:
            torch.cat([self.weight.float(), self.weight])
            self.bias.chunk(2)
            return {}

    seen = dry_pass(Model(4, 4))
    assert {use.function for use in seen.uses["weight"]} == {"torch.Tensor.float", "torch.cat"}
    assert seen.reached("bias")


def test_a_parameter_that_the_model_changes_is_named_and_left_as_it_was() -> None:
    config = RwkvConfig(**pico.SPECIAL, hidden_size=32, num_hidden_layers=4, rescale_every=2)
    model = skeleton(config, torch.float32)
    seen = dry_pass(model)
    assert seen.error is None
    assert "rwkv.blocks.2.attention.output.weight" in seen.rewritten
    left = {m.name for m in find_matrices(model)}
    assert "rwkv.blocks.2.attention.output" not in left
    assert "rwkv.blocks.2.attention.key" in left
