"""The decoder layers are found by structure: beside the embedding, reached by a text, largest."""

from types import SimpleNamespace

import pytest
from torch import nn
from transformers import AutoModelForCausalLM

from bitstack.errors import UserError
from bitstack.original.decoder_layers import embedding_and_head, find_layers, layer_of
from tests import pico


class Beside(nn.Module):
    """Two lists of modules beside the embedding, and a larger one elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.text = nn.ModuleDict(
            {
                "letters": nn.Embedding(11, 6),
                "rungs": nn.ModuleList(nn.Linear(6, 6) for _ in range(3)),
                "few": nn.ModuleList([nn.Linear(6, 2)]),
            }
        )
        self.tower = nn.ModuleList(nn.Linear(60, 60) for _ in range(3))

    def get_input_embeddings(self) -> nn.Module:
        return self.text["letters"]

    def get_output_embeddings(self) -> None:
        return None


def test_the_largest_list_beside_the_embedding() -> None:
    model = Beside()
    assert find_layers(model)[0] == "text.rungs"
    assert embedding_and_head(model) == (model.text["letters"], None)


@pytest.mark.parametrize("name", sorted(pico.FAMILIES))
def test_the_list_that_the_config_counts(name: str) -> None:
    model = AutoModelForCausalLM.from_config(pico.FAMILIES[name]())
    found, layers = find_layers(model)
    assert len(layers) == model.config.get_text_config(decoder=True).num_hidden_layers
    assert layer_of(f"{found}.1.mlp.weight", found) == 1
    assert layer_of("lm_head.weight", found) is None


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="no list of decoder layers"):
        find_layers(nn.Sequential(nn.Linear(2, 2)))
