"""MatGPTQ: slices of one parent, codes for several widths at once, rows of a whole model."""

import importlib
from typing import Any

import pytest
import torch

import pico

TARGETS = ((3, 4, 8), (2, 3, 4, 8))


@pytest.fixture(scope="module")
def script() -> Any:
    """`script(name)` imports a module of scripts/."""
    return importlib.import_module


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_slice_is_the_most_significant_bits_rounded(script: Any) -> None:
    sliced = script("peers.matgptq").sliced
    codes = torch.tensor([0, 7, 8, 0b01101111, 247, 255], dtype=torch.uint8)
    assert sliced(codes, 8).tolist() == codes.tolist()
    assert sliced(codes, 4).tolist() == [0, 0, 16, 112, 240, 240]  # no code above the last
    assert sliced(codes, 2).tolist() == [0, 0, 0, 128, 192, 192]


@pytest.mark.parametrize("targets", TARGETS)
def test_a_code_is_the_best_of_all(script: Any, targets: tuple[int, ...]) -> None:
    """For the mean of the squared errors of its slices; the error fed back is their mean."""
    module = script("peers.matgptq")
    chooser, x = module.Chooser(targets), random(5, 40)
    grid = script("peers.grid").whole_range(x, 8, 0.7)
    slices = torch.stack(
        [
            torch.stack(
                [(module.sliced(torch.tensor(q), b) - grid.zero) * grid.scale for b in targets]
            )
            for q in range(256)
        ]
    )  # [256, targets, rows, 1]
    errors = x - slices
    squares = errors.square().mean(1)
    codes = chooser.codes(grid, x)
    best = squares.gather(0, codes[None])[0]
    torch.testing.assert_close(best, squares.amin(0), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(chooser.square(grid, x), best, atol=1e-5, rtol=1e-3)
    mean = errors.mean(1).gather(0, codes[None])[0]
    torch.testing.assert_close(chooser.mean_error(grid, x, codes), mean, atol=1e-5, rtol=1e-3)


def test_one_target_is_rounding(script: Any) -> None:
    module, x = script("peers.matgptq"), random(4, 30)
    grid = script("peers.grid").whole_range(x, 8)
    codes = module.Chooser((8,)).codes(grid, x)
    torch.testing.assert_close((codes - grid.zero) * grid.scale, grid.round(x))


def test_feedback_helps_the_targets(script: Any) -> None:
    """With correlated inputs the slices together are nearer than with codes chosen alone."""
    module = script("peers.matgptq")
    x = random(200, 32) + 1.5 * random(200, 1, seed=1)
    moment, weight = x.T @ x / 200, random(16, 32, seed=2)
    diagonal = torch.diag(moment.diagonal())

    def error(parent: Any, bits: int) -> float:
        lost = parent.weight(bits) - weight
        return float(((lost @ moment) * lost).sum())

    for targets in TARGETS:
        fed = module.quantise(weight, moment, targets, 16)
        alone = module.quantise(weight, diagonal, targets, 16)
        assert sum(error(fed, b) for b in targets) < 0.8 * sum(error(alone, b) for b in targets)


@pytest.fixture(scope="module")
def bench(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("matgptq")
    text = folder / "text.txt"
    text.write_text(pico.TEXT * 4)
    limits = script("peers.limits").Limits(groups=(64,), embeddings=True)
    return script("peers.bench").Bench(
        pico.save("llama-tied", folder / "model"), text, text, folder / "work",
        tokens=200, window=32, samples=8, length=32, limits=limits,
    )  # fmt: skip


def test_one_parent_gives_all_rows(
    script: Any, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, made = script("peers.matgptq"), list[Any]()
    quantise = module.quantise_model

    def noted(model: Any, bench: Any, targets: Any, group: int) -> Any:
        made.append((targets, group))
        return quantise(model, bench, targets, group)

    monkeypatch.setattr(module, "quantise_model", noted)
    rows = list(module.rows(bench, lambda *_: False))
    assert made == [((3, 4, 8), 64), ((2, 3, 4, 8), 64)]
    names = [f"matgptq g64{parent}" for parent in ("", ", from 2 bits")]
    for name in names:
        own = [r for r in rows if r.method == name]
        assert [r.setting for r in own] == ["2 bits", "3 bits", "4 bits", "8 bits"]
        far = [r.kl_per_token for r in own]
        assert far == sorted(far, reverse=True)
        for row, bits in zip(own, (2, 3, 4, 8), strict=True):
            stored = 0
            for matrix in bench.linear:
                groups = matrix.rows * -(-matrix.columns // 64)
                stored += -(-matrix.weights * bits // 8) + 2 * groups + groups  # zeros of 8 bits
            assert row.resident_bytes == bench.dense_bytes + stored
    assert len([r for r in rows if r.method.endswith("embedding 8 bits")]) == 8
    at = {(r.method, r.setting): r.kl_per_token for r in rows}
    assert at[names[1], "2 bits"] < at[names[0], "2 bits"]
    assert at[names[0], "8 bits"] < at[names[1], "8 bits"]


def test_only_what_is_missing_is_measured(script: Any, bench: Any) -> None:
    module = script("peers.matgptq")
    rows = list(module.rows(bench, lambda *row: row != ("matgptq g64", "3 bits")))
    assert [(r.method, r.setting) for r in rows] == [("matgptq g64", "3 bits")]
    assert list(module.rows(bench, lambda *_: True)) == []
