"""The parts of the benchmark on its small model: what they measure is really measured."""

from pathlib import Path

import bench_resize as bench
import pytest

from bitstack import load


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "small"
    return bench.random_container(folder, bench.shape(False), planes=8)


def test_the_container_loads_and_its_activations_are_finite(small: Path) -> None:
    for level in (1, 8):
        model = load(small, level=level)
        logits = bench.logits(model)
        assert logits.isfinite().all()
        assert logits.float().std() > 1e-3


def test_speed(small: Path) -> None:
    times = bench.speed(small, 100_000, 2)
    assert 0 < times["size"] <= 100_000
    assert all(times[name] > 0 for name in ("fresh", "warm", "grow", "shrink"))


def test_resizes_during_generation(small: Path) -> None:
    made, leaked, equal = bench.during_generation(small, 50)
    assert made == 50
    assert equal
    assert leaked < 8 << 20


def test_too_few_bytes(small: Path) -> None:
    with pytest.raises(ValueError, match="fewer than"):
        bench.read_bytes(small, 1 << 27)
