"""Value and gradient of the divergence are those of torch, in one piece and in several."""

import pytest
import torch
import torch.nn.functional as F

from bitstack.tuning import divergence
from bitstack.tuning.divergence import Divergence


@pytest.mark.parametrize("piece", [1, 40, 1 << 18])
def test_as_torch_has_it(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "_PIECE", piece)
    generator = torch.Generator().manual_seed(0)
    given, target = (3 * torch.randn(9, 17, generator=generator) for _ in range(2))
    mine, theirs = given.clone().requires_grad_(), given.clone().requires_grad_()
    loss = Divergence.apply(mine * 1, target)
    logs = theirs.log_softmax(-1), target.log_softmax(-1)
    expected = F.kl_div(*logs, log_target=True, reduction="batchmean")
    torch.testing.assert_close(loss, expected)
    (2 * loss).backward()
    (2 * expected).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_of_a_model_from_itself_it_is_zero() -> None:
    logits = torch.randn(4, 11)
    assert abs(float(Divergence.apply(logits.clone(), logits))) < 1e-6
