"""A container whose tokenizer has a chat template, and servers of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from served import Served, served


@pytest.fixture(scope="package")
def server(chatty: Path) -> Iterator[Served]:
    """A server whose model has 3 bits per weight, which tests leave as they found it."""
    with served(chatty, budget="3bpw") as one:
        yield one
