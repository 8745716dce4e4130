"""The statistics of a layer are those of the model's own forward on the same windows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import pico
from bitstack.compression.job import Job, open_job
from bitstack.compression.layer_statistics import LayerStatistics
from bitstack.original.matrix import Matrix
from bitstack.recipe import load_recipe

LAYER = 1
FEW = {"num_samples": 3, "seq_len": 24, "blocks": 2}


@pytest.fixture
def model(pico_model: Callable[..., Path]) -> Path:
    return pico_model("llama-tied")


def opened(model: Path, output: Path, calibration: object) -> tuple[Job, LayerStatistics]:
    job = open_job(model, output, load_recipe("fast", calibration=str(calibration), **FEW), False)
    return job, LayerStatistics(job)


def of_layer(job: Job) -> list[Matrix]:
    return [matrix for matrix in job.matrices if matrix.layer == LAYER]


def moments_of(model: Path, windows: list[Tensor], matrices: list[Matrix]) -> dict[str, Tensor]:
    """E[x xᵀ] of each matrix's inputs in a forward of transformers."""
    whole = AutoModelForCausalLM.from_pretrained(model)
    seen: dict[str, list[Tensor]] = {matrix.module: [] for matrix in matrices}
    for name, inputs in seen.items():
        whole.get_submodule(name).register_forward_pre_hook(
            lambda _, args, inputs=inputs: inputs.append(args[0].flatten(0, 1))
        )
    with torch.no_grad():
        for ids in windows:
            whole(ids)
    joined = {name: torch.cat(inputs) for name, inputs in seen.items()}
    return {name: x.T @ x / len(x) for name, x in joined.items()}


def test_they_are_those_of_the_whole_model(model: Path, text_file: Path, tmp_path: Path) -> None:
    job, statistics = opened(model, tmp_path / "out", text_file)
    assert statistics.calibrate(lambda _: False) == 0
    matrices = of_layer(job)
    with statistics.runner.layer_loaded(LAYER), torch.no_grad():
        found = statistics.of_layer(LAYER, matrices, matrices, folds=True)
    expected = moments_of(model, statistics.runner.windows, matrices)
    tolerance = 0.05 if statistics.runner.dtype == torch.bfloat16 else 1e-4
    for matrix, (moment, weights) in zip(matrices, found, strict=True):
        assert moment is not None
        assert weights is not None
        error = (moment - expected[matrix.module]).norm() / expected[matrix.module].norm()
        assert error < tolerance
        assert weights.shape == (matrix.rows,)
        assert (weights >= 0).all()
        assert weights.sum() > 0


def test_the_tied_embedding_has_those_of_both_its_uses(
    model: Path, text_file: Path, tmp_path: Path
) -> None:
    job, statistics = opened(model, tmp_path / "out", text_file)
    statistics.calibrate(lambda _: False)
    outer = [matrix for matrix in job.matrices if matrix.layer is None]
    with statistics.runner.outer_loaded(), torch.no_grad():
        found = statistics.of_outer(outer)
    assert statistics.fisher is not None
    for matrix, (moment, weights) in zip(outer, found, strict=True):
        assert matrix.tied
        assert moment is not None
        assert weights is not None
        assert moment.trace() > statistics.fisher.embedding.trace()  # the head's part is added
        assert weights.shape == (matrix.rows,)


def test_there_are_none_without_text(model: Path, tmp_path: Path) -> None:
    job, statistics = opened(model, tmp_path / "out", "none")
    assert statistics.calibrate(lambda _: False) == 0
    matrices = of_layer(job)
    with statistics.runner.layer_loaded(LAYER), torch.no_grad():
        found = statistics.of_layer(LAYER, matrices, matrices, folds=True)
    assert found == [(None, None)] * len(matrices)


def test_each_outer_matrix_alone_and_without_logits(text_file: Path, tmp_path: Path) -> None:
    """As a worker has them: of a matrix before the layers (OPT-350m's), or of the head."""
    config = pico.build("opt").config
    config.word_embed_proj_dim = 20
    path = tmp_path / "model"
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    pico.tokenizer().save_pretrained(path)
    job, statistics = opened(path, tmp_path / "out", text_file)
    statistics.calibrate(lambda _: False)
    outer = [matrix for matrix in job.matrices if matrix.layer is None]
    assert len({matrix.module for matrix in outer}) > 2
    head = statistics.runner.source.model.get_output_embeddings()
    multiplied: list[int] = []
    head.register_forward_hook(lambda *_: multiplied.append(1))
    with statistics.runner.outer_loaded(), torch.no_grad():
        together = statistics.of_outer(outer)
        for matrix, (moment, weights) in zip(outer, together, strict=True):
            [(alone, alone_weights)] = statistics.of_outer([matrix])
            assert moment is not None
            assert alone is not None
            assert torch.equal(alone, moment)
            if weights is None:  # gradients go no further back than the first layer
                assert alone_weights is None
            else:
                assert torch.equal(alone_weights, weights)
    assert not multiplied
