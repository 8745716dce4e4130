"""Fixtures of pushing: a container, a text, and a server that takes what is sent."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pico
from hub_server import WRITER, HubServer


@pytest.fixture(scope="module")
def made(stacked: Callable[..., Path]) -> Path:
    return stacked("llama-gqa", blocks=4, shard_size="8kB")


@pytest.fixture
def container(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "container")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "held-out.txt"
    file.write_text(pico.TEXT)
    return file


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """--quiet is for the process of a command; here others follow."""
    yield
    logging.getLogger("bitstack").setLevel(logging.NOTSET)


@pytest.fixture
def writer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    return hub
