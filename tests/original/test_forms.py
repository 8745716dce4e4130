"""A module is taken for a product where it computes one, whatever its class is called."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import FalconConfig, JetMoeConfig, Llama4TextConfig

import pico
from bitstack.original.dry_pass import Use
from bitstack.original.forms import Experts, computes_product, experts_form
from bitstack.original.matrices import find_matrices
from bitstack.original.skeleton import skeleton


class Written(nn.Linear):
    """As Falcon writes it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Scaled(Written):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Wide(nn.Linear):
    """As routers do: in fp32 whatever the model's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.float())


class Chosen(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, places = F.linear(x, self.weight).topk(2)
        return values, places


class Clamped(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.clamp(-10, 10), self.weight, self.bias)


class Grouped(nn.Linear):
    groups = 2

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.view(*x.shape[:-1], self.groups, -1), self.weight)


class Adapted(nn.Linear):
    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.more = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@pytest.mark.parametrize(
    ("kind", "is_product"),
    [(nn.Linear, True), (Written, True)]
    + [(kind, False) for kind in (Scaled, Clamped, Wide, Chosen, Grouped, Adapted)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_known_by_what_they_compute(
    kind: type[nn.Linear], is_product: bool, bias: bool
) -> None:
    with torch.device("meta"):
        module = kind(8, 6) if kind is Adapted else kind(8, 6, bias=bias)
    assert computes_product(module) == is_product
    assert module.weight.is_meta
    assert module.in_features == 8


def test_experts_used_in_two_ways_are_of_no_form() -> None:
    linear = Use("torch.nn.functional.linear", 1, True)
    assert experts_form({linear}) is Experts.OUT_IN
    assert experts_form({linear, Use("torch.Tensor.transpose", 0, False)}) is None
    assert experts_form({Use("torch.nn.functional.linear", 0, True)}) is None
    assert experts_form(set()) is None


CONFIGS = {
    "falcon": FalconConfig(**pico.SIZES),
    "jetmoe": JetMoeConfig(
        **pico.SIZES | {"num_attention_heads": None}, num_key_value_heads=2, kv_channels=8,
        num_local_experts=4, num_experts_per_tok=2,
    ),
    "llama4": Llama4TextConfig(
        **pico.SIZES, num_key_value_heads=2, head_dim=8, intermediate_size_mlp=44,
        num_local_experts=4, num_experts_per_tok=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_matrices_behind_code_of_their_own_are_decomposed(name: str) -> None:
    model = skeleton(CONFIGS[name], torch.float32)
    matrices = find_matrices(model)
    share = sum(m.weights for m in matrices) / sum(p.numel() for p in model.parameters())
    assert share > 0.95
    for matrix in matrices:
        value = matrix.of(model.get_parameter(matrix.parameter))
        assert value.shape == (matrix.rows, matrix.columns)
