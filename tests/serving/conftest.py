"""A container whose tokenizer has a chat template, and servers of it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from served import TEMPLATE, Served, served


@pytest.fixture(scope="package")
def chatty(stacked: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "small"
    shutil.copytree(stacked("llama-gqa", calibration="none"), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="package")
def server(chatty: Path) -> Iterator[Served]:
    """A server whose model has 3 bits per weight, which tests leave as they found it."""
    with served(chatty, budget="3bpw") as one:
        yield one
