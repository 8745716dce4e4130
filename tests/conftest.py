"""Fixtures for all tests; `import pico` works in every test file."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import pico

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def pico_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`pico_model(name, seed=0, dtype=torch.float32)`: a model folder, to be read only."""

    @cache
    def folder(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
        path = tmp_path_factory.mktemp("pico") / name
        return pico.save(name, path, seed=seed, dtype=dtype)

    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and texts beside the repository; none of them comes with it."""
    if not SHARED.is_dir():
        pytest.skip("needs the real models and texts of ../shared, which is not here")
    return SHARED
