"""The loss by hand, and a student that learns."""

import pytest
import torch
import torch.nn.functional as F
from capacity_gap_pilot.distillation import distil, distillation_loss

import pico

BLOCKS = torch.randint(307, (24, 16), generator=torch.Generator().manual_seed(0))


def test_the_loss_is_half_text_half_teacher() -> None:
    student, teacher, ids = pico.build("llama-tied"), pico.build("llama-gqa"), BLOCKS[:3]
    with torch.no_grad():
        p = teacher(ids).logits[:, :-1].double().softmax(-1)
        q = student(ids).logits[:, :-1].double().log_softmax(-1)
        soft = -(p * q).sum(-1).mean()
        hard = F.nll_loss(q.flatten(0, 1), ids[:, 1:].flatten())
        loss = distillation_loss(student, teacher, ids)
    assert float(loss) == pytest.approx(float(hard + soft) / 2, rel=1e-5)


def test_a_student_comes_closer_to_its_teacher() -> None:
    teacher, student = pico.build("llama-gqa"), pico.build("llama-tied")
    with torch.no_grad():
        least = float(distillation_loss(teacher, teacher, BLOCKS))
        before = float(distillation_loss(student, teacher, BLOCKS)) - least
    for seed in range(8):
        distil(student, teacher, BLOCKS, learning_rate=5e-3, seed=seed)
    with torch.no_grad():
        after = float(distillation_loss(student, teacher, BLOCKS)) - least
    assert after < 0.7 * before


def test_the_seed_fixes_the_result() -> None:
    def trained(seed: int) -> torch.Tensor:
        student = pico.build("llama-tied")
        distil(student, pico.build("llama-gqa"), BLOCKS, batch_size=4, seed=seed)
        return student.get_input_embeddings().weight.detach()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))
