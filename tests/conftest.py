"""Fixtures for all tests; `import pico` works in every test file."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

import pico
from hub_server import HubServer

CHOICES = """\
task: boats
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{[a, b]}}}}"
doc_to_target: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""

SHARED = Path(__file__).parents[2] / "shared"

# A busy machine must not fail a property.
settings.register_profile("bitstack", deadline=None)
settings.load_profile("bitstack")

# Pico matrices gain nothing from threads, and lose much where others use the cores too.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pico_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`pico_model(name, seed=0, dtype=torch.float32)`: a model folder, to be read only."""

    @cache
    def folder(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
        path = tmp_path_factory.mktemp("pico") / name
        return pico.save(name, path, seed=seed, dtype=dtype)

    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration text, about 1,000 pico tokens."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(pico.TEXT * 3)
    return path


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file of one's own, `boats` (24 choices of the next word), and data for LAMBADA."""
    folder = tmp_path_factory.mktemp("tasks")
    starts = range(0, 72, 3)
    rows = [
        {"q": " ".join(pico.WORDS[i : i + 3]), "a": pico.WORDS[i + 3], "b": pico.WORDS[i + 9]}
        for i in starts
    ]
    (folder / "boats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "boats.yaml").write_text(CHOICES.format(data=folder / "boats.jsonl"))
    texts = [" ".join(pico.WORDS[i : i + 6]) for i in starts]
    (folder / "lambada_test.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts)
    )
    return folder


@pytest.fixture(scope="session")
def stacked(
    pico_model: Callable[..., Path], text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`stacked(name, dtype=torch.float32, **recipe fields)`: a container, to be read only.

    Calibrated on a few short windows, without search and tuning and in the predicted order,
    unless the fields say otherwise.
    """
    from bitstack import compress

    @cache
    def container(name: str, dtype: torch.dtype = torch.float32, **fields: Any) -> Path:
        few = {"calibration": str(text_file), "num_samples": 4, "seq_len": 32, "order": "predicted"}
        quick = {"search_sweeps": 0, "joint_passes": 0, "tune_steps": 0}
        path = tmp_path_factory.mktemp("stacked") / name
        return compress(pico_model(name, dtype=dtype), path, **few | quick | fields)

    return container


@pytest.fixture(scope="session")
def chatty(stacked: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A container called `small`, whose tokenizer has the chat template of `pico`."""
    folder = tmp_path_factory.mktemp("chatty") / "small"
    shutil.copytree(stacked("llama-gqa", calibration="none"), folder)
    (folder / "chat_template.jinja").write_text(pico.TEMPLATE)
    return folder


@pytest.fixture
def run(text_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """`run(model folder, name of the output, **fields)`: a container of this test alone."""
    from bitstack import compress

    def make(model: Path, output: str = "out", **fields: Any) -> Path:
        return compress(model, tmp_path / output, **{"calibration": str(text_file)} | fields)

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of this test alone, with an empty cache and no token; the client is the real one."""
    from huggingface_hub import constants

    server = HubServer()
    here = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in here.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    yield server
    server.shutdown()
    server.server_close()
    assert server.unknown == []


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and texts beside the repository; none of them comes with it."""
    if not SHARED.is_dir():
        pytest.skip("needs the real models and texts of ../shared, which is not here")
    return SHARED
