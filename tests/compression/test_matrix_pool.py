"""Matrices side by side get what each gets alone; a failure is not lost among the threads."""

import pytest
import torch

from bitstack.compression import matrix_pool
from bitstack.compression.matrix_pool import MatrixPool, MatrixTask
from bitstack.decompose import decompose
from bitstack.decompose import rows as rows_module
from bitstack.original.matrix import Matrix
from bitstack.recipe import load_recipe

RECIPE = load_recipe("fast", blocks=3)


def task(index: int, rows: int, columns: int = 24, *, compares: bool = False) -> MatrixTask:
    generator = torch.Generator().manual_seed(index)
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(64, columns, generator=generator)
    matrix = Matrix(f"m{index}", "p", "m", "linear", rows, columns)
    weights = torch.rand(rows, generator=generator)
    return MatrixTask(matrix, RECIPE, weight, inputs.T @ inputs, weights, compares)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_are_those_of_one_after_another(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones and one of several blocks."""
    monkeypatch.setattr(rows_module, "BLOCK", 24 * 300)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    tasks = [task(i, rows) for i, rows in enumerate((30, 40, 900, 50, 20))]
    with MatrixPool("cpu") as pool:
        results = {result.matrix.name: result for result in pool.run(tasks)}
    assert len(results) == len(tasks)
    for one in tasks:
        alone = decompose(one.weight, RECIPE, moment=one.moment, row_weights=one.row_weights)
        found = results[one.matrix.name].done
        assert all(torch.equal(found.tensors[name], alone.tensors[name]) for name in alone.tensors)


def test_a_note_holds_losses_and_rounding_only_where_asked() -> None:
    with MatrixPool("cpu") as pool:
        plain, compared = pool.run([task(0, 30)]), pool.run([task(0, 30, compares=True)])
        (one,), (other,) = plain, compared
    note = one.note()
    assert "rounded" not in note
    assert note["losses"] == sorted(note["losses"], reverse=True)
    assert len(other.note()["rounded"]) == RECIPE.blocks


def test_an_error_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(matrix_pool, "decompose", fail)
    with pytest.raises(RuntimeError, match="no"), MatrixPool("cpu") as pool:
        list(pool.run([task(0, 30), task(1, 30)]))
