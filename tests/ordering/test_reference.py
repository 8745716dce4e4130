"""The divergence from what is kept of the original is that from all of it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack.calibration.spill import Spill
from bitstack.ordering.reference import KEPT_TOKENS, Reference


class Original:
    """Stands in for a runner: two batches of given logits, which leave its layers as they are."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches, self.windows = batches, batches

    def __len__(self) -> int:
        return 1

    def outer_loaded(self) -> "Original":
        return self

    def layer_loaded(self, index: int) -> "Original":
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *args: object) -> None:
        pass

    def embed_all(self) -> list[Tensor]:
        return self.batches

    def run_layer(self, index: int, hidden: Tensor) -> Tensor:
        return hidden

    def logits_by_part(self, batch: int, hidden: Tensor) -> list[tuple[slice, Tensor]]:
        return [(slice(0, 3), hidden[:, :3]), (slice(3, 5), hidden[:, 3:])]


@pytest.mark.parametrize("vocabulary", [40, KEPT_TOKENS, 4000])
def test_divergence(tmp_path: Path, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [3 * torch.randn(2, 5, vocabulary, generator=generator) for _ in range(2)]
    kept = Reference(Original(batches), Spill(tmp_path / "spill"))  # type: ignore[arg-type]
    other = [b + torch.randn(b.shape, generator=generator) / 3 for b in batches]
    for batch, (logits, target) in enumerate(zip(other, batches, strict=True)):
        whole = [
            F.kl_div(a.log_softmax(-1), b.log_softmax(-1), log_target=True, reduction="sum")  # nats
            for a, b in ((logits[:, :3], target[:, :3]), (logits[:, 3:], target[:, 3:]))
        ]
        divergences = [
            kept.divergence(batch, slice(0, 3), logits[:, :3]),
            kept.divergence(batch, slice(3, 5), logits[:, 3:]),
        ]
        for part, all_of_it in zip(divergences, whole, strict=True):
            assert part <= float(all_of_it) * (1 + 1e-4)
            assert part >= float(all_of_it) * (1 - 1e-4 if vocabulary <= KEPT_TOKENS else 0.7)
        same = kept.divergence(batch, slice(0, 3), target[:, :3])
        assert same == pytest.approx(0, abs=1e-4)
