"""The loss of a model still being made, layer by layer, is that of the whole stacked model,
and so is how far it is from the original."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

import pico
from bitstack.calibration.spill import Spill
from bitstack.compression.decompose_stage import decompose_matrices
from bitstack.compression.job import open_job
from bitstack.container.entries import DenseEntry
from bitstack.nn.assemble import assemble
from bitstack.ordering.layer_loss import LayerwiseLoss
from bitstack.ordering.reference import Reference
from bitstack.original.skeleton import skeleton
from bitstack.recipe import load_recipe

Folder = Callable[..., Path]
CODES: dict[str, Any] = {"recipe": "default", "blocks": 3, "search_sweeps": 0, "joint_passes": 0}
SIGNS: dict[str, Any] = {"recipe": "paper", "blocks": 3, "rank": 2}


@pytest.mark.parametrize(
    ("name", "fields"),
    [(name, CODES) for name in pico.FAMILIES]
    + [(name, SIGNS) for name in ("llama-tied", "gemma-2", "gpt-2", "opt", "mixtral")],
    ids=lambda value: value if isinstance(value, str) else value["recipe"],
)
def test_measured_loss(
    pico_model: Folder, text_file: Path, tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    few = {"calibration": str(text_file), "num_samples": 3, "seq_len": 24}
    recipe = load_recipe(fields["recipe"], **few | {k: fields[k] for k in fields if k != "recipe"})
    job = open_job(pico_model(name), tmp_path / "out", recipe, False)
    decompose_matrices(job)
    measure = LayerwiseLoss(job.runner(batch_tokens=48), job.journal, job.stacks, job.stored_dense)
    dense = [DenseEntry.of(d) for d in job.dense]
    assert job.text is not None
    ids = job.text.windows
    original = AutoModelForCausalLM.from_pretrained(job.source.path, dtype=torch.float32)
    for shift in range(3):
        levels = [1 + (i + shift) % 3 for i in range(len(job.stacks))]
        config = job.source.config
        empty = skeleton(config, torch.float32)
        model = assemble(empty, job.stacks, dense, job.journal, levels)
        with torch.no_grad():
            logits = model(ids).logits[:, :-1]
        expected = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        assert measure(levels) == pytest.approx(float(expected), rel=2e-4)
        measure.reference = Reference(measure.runner, Spill(tmp_path / "likely"))
        with torch.no_grad():
            target = original(ids).logits.log_softmax(-1)
            stacked = model(ids).logits.log_softmax(-1)
        far = F.kl_div(stacked, target, log_target=True, reduction="sum") / ids.numel()
        assert 0.8 * float(far) < measure(levels) < 1.002 * float(far)  # of the likeliest tokens
        measure.reference = None
    assert all(p.is_meta for p in job.source.model.parameters())
