"""Fisher information gathered layer by layer is that of the whole model, by autograd.

Also covers `calibration.gradients` and `calibration.hidden_states`.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import pico
from bitstack.calibration import fisher as fisher_module
from bitstack.calibration import layers as layers_module
from bitstack.calibration.fisher import (
    GRADIENT_TOKENS,
    FisherInformation,
    gradient_batches,
    measure_fisher,
    token_shares,
)
from bitstack.calibration.gradients import draw_labels
from bitstack.calibration.hidden_states import state_key
from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.spill import Spill
from bitstack.machine.workers import Workers

from .whole_model import SEED, close, streamed, whole, windows

Folder = Callable[..., Path]


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_fisher_information_is_that_of_the_whole_model(
    pico_model: Folder, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, matrices = streamed(pico_model(name))
    # A few positions at a time.
    monkeypatch.setattr(layers_module, "LOGITS_AT_ONCE", 7 * pico.VOCABULARY)
    fisher = measure_fisher(runner, matrices, Spill(tmp_path), seed=SEED, workers=Workers())
    expected = whole(pico_model(name), matrices)
    tokens = sum(ids.numel() for ids in windows())
    for matrix in matrices:
        gradients = expected.seen[matrix.name].gradients
        if not gradients:
            assert matrix.name not in fisher.rows
            continue
        squares = torch.cat([g.flatten(0, -2) for g in gradients]).square().sum(0)
        assert close(fisher.rows[matrix.name], squares / tokens, 2e-4), matrix.name
    moment = expected.embedding.T @ expected.embedding / tokens
    # Where positions are added, how much of layer 0's input the row is has to be estimated.
    assert close(fisher.embedding, moment, 0.1 if name in ("gpt-2", "opt") else 2e-4)
    left = {state_key(layer, batch) for layer in range(3) for batch in range(3)}
    left |= {f"fisher-{layer}-{part}" for layer in range(-1, 3) for part in range(3)}
    assert {p.name for p in tmp_path.iterdir()} == left


class Killed(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize("name", ["llama-tied", "qwen3-moe"])
def test_an_interrupted_measurement_goes_on_from_its_last_layer(
    pico_model: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Killed at every file it writes, it comes to the same bits, and runs few batches twice."""
    runs, writes, kill_at = [0], [0], [10**9]
    run_layer, put = LayerRunner.run_layer, Spill.put_named

    def counted(self: LayerRunner, *args: Any) -> torch.Tensor:
        runs[0] += 1
        return run_layer(self, *args)

    def killing(self: Spill, *args: Any) -> None:
        writes[0] += 1
        if writes[0] == kill_at[0]:
            raise Killed
        put(self, *args)

    def measure(folder: str) -> FisherInformation:
        runner, matrices = streamed(pico_model(name))
        spill = Spill(tmp_path / folder)
        return measure_fisher(runner, matrices, spill, seed=SEED, workers=Workers())

    monkeypatch.setattr(LayerRunner, "run_layer", counted)
    monkeypatch.setattr(Spill, "put_named", killing)
    whole, batches, once, files = measure("whole"), 3, runs[0], writes[0]
    assert files > 20
    for kill_at[0] in range(1, files + 1, 5):
        runs[0] = writes[0] = 0
        with pytest.raises(Killed):
            measure(f"killed-{kill_at[0]}")
        again = measure(f"killed-{kill_at[0]}")
        assert runs[0] <= once + batches
        assert again.rows.keys() == whole.rows.keys()
        assert all(torch.equal(again.rows[name], whole.rows[name]) for name in whole.rows)
        assert torch.equal(again.embedding, whole.embedding)


class Arrived(Exception):
    """A worker has done its share and would wait for the others."""


class FirstOfTwo(Workers):
    """A worker that stops where it would wait, so that another can be run after it."""

    def wait(self, stage: str) -> None:
        raise Arrived


def test_workers_get_what_one_process_gets(
    pico_model: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: batches are summed up in parts that do not depend on who runs them."""
    monkeypatch.setattr(fisher_module, "_PARTS", 2)  # of three batches: one part holds two

    def measure(folder: str, workers: Workers) -> FisherInformation:
        runner, matrices = streamed(pico_model("llama-gqa"))
        spill = Spill(tmp_path / folder)
        return measure_fisher(runner, matrices, spill, seed=SEED, workers=workers)

    alone = measure("alone", Workers())
    with pytest.raises(Arrived):
        measure("shared", FirstOfTwo(rank=1, count=2))
    assert not (tmp_path / "shared" / "fisher--1-0").exists()
    together = measure("shared", Workers(rank=0, count=2))
    assert together.rows.keys() == alone.rows.keys()
    assert all(torch.equal(together.rows[name], alone.rows[name]) for name in alone.rows)
    assert torch.equal(together.embedding, alone.embedding)
    left = {file.name for file in (tmp_path / "alone").iterdir()}
    assert {file.name for file in (tmp_path / "shared").iterdir()} == left


def test_labels_are_drawn_as_often_as_the_model_expects_them() -> None:
    chances = torch.tensor([[0.1, 0.0, 0.6, 0.3]]).expand(4000, 4)
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(draw_labels(chances, uniform), minlength=4) / 4000
    torch.testing.assert_close(drawn, chances[0], atol=0.03, rtol=0)
    ends = draw_labels(chances[:2], torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [0, 3]


def test_an_embedding_used_as_input_and_output() -> None:
    """With all rows erring alike, moment and row weights give the exact sum of both costs."""
    torch.manual_seed(0)
    vocabulary, d = 7, 4
    g, h = (x @ x.T for x in torch.randn(2, d, 9))
    rows = torch.rand(vocabulary)
    error = torch.randn(d)
    fisher = FisherInformation({}, g)
    share = token_shares([torch.tensor([[0, 5, 5]]), torch.tensor([[6, 5, 1]])], vocabulary)
    torch.testing.assert_close(share, torch.tensor([2.0, 2, 1, 1, 1, 4, 2]) / 13)
    as_input = (share * (error @ g @ error)).sum()
    moment, weights = fisher.of_embedding(share, None, None)
    torch.testing.assert_close((weights * (error @ moment @ error)).sum(), as_input)
    moment, weights = fisher.of_embedding(share, h, rows)
    as_output = (rows * (error @ h @ error)).sum()
    # The weights of the rows sum to one, so that equal errors cost what they cost together.
    torch.testing.assert_close((weights * (error @ moment @ error)).sum(), as_input + as_output)
    parts = [fisher.of_embedding(share[own], h, rows[own]) for own in (slice(3), slice(3, 7))]
    apart = sum((weights * (error @ moment @ error)).sum() for moment, weights in parts)
    torch.testing.assert_close(apart, as_input + as_output)


@pytest.mark.parametrize(
    ("batches", "tokens", "expected"),
    [(1, 10, 1), (5, 10, 5), (16, 2048, 8), (128, 2048, 8), (3, 100_000, 1), (64, 512, 32)],
)
def test_a_long_text_is_run_backward_in_parts(batches: int, tokens: int, expected: int) -> None:
    """At equal distances; never fewer tokens than are wanted, if there are as many."""
    windows = [torch.zeros(1, tokens, dtype=torch.int64)] * batches
    chosen = gradient_batches(windows)
    assert len(chosen) == expected
    assert len(chosen) * tokens >= min(batches * tokens, GRADIENT_TOKENS)
    assert len({b - a for a, b in pairwise(chosen)}) <= 1
