"""A container's config makes a model as large as the manifest says, or is refused at once."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitstack import UserError, load, plan
from bitstack.container.manifest import read_manifest
from bitstack.container.skeleton_of import skeleton_of
from damage import change_file, copied

Folder = Callable[..., Path]


@pytest.fixture
def container(stacked: Folder, tmp_path: Path) -> Path:
    return copied(stacked("llama-gqa", blocks=2), tmp_path)


def change(container: Path, **fields: Any) -> None:
    data = json.loads((container / "config.json").read_text())
    change_file(container, "config.json", json.dumps(data | fields).encode())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 10**9}, "asks for num_hidden_layers = 1000000000, more than any"),
        ({"num_labels": 10**9}, "asks for num_labels"),
        ({"layers_of": [1, 10**9]}, "asks for layers_of"),
        ({"num_hidden_layers": 10**6}, r"makes no model \(ValueError: more than \d+ parts"),
        ({"hidden_size": 10**9, "intermediate_size": 10**9}, "but config.json makes it|no model"),
        ({"vocab_size": 10**12}, "but config.json makes it|no model"),
        ({"num_attention_heads": 0}, "config.json (cannot be read|makes no model)"),
        ({"hidden_act": "nothing"}, "config.json (cannot be read|makes no model)"),
        ({"model_type": "nothing"}, "config.json cannot be read"),
        ({"attn_implementation": "a/kernel"}, "asks for code from elsewhere"),
        ({"rope_parameters": {"rope_type": "nothing"}}, "config.json"),
    ],
)
def test_absurd_configs(container: Path, fields: dict[str, Any], message: str) -> None:
    change(container, **fields)
    manifest = read_manifest(container)
    started = time.process_time()
    with pytest.raises(UserError, match=message) as error:
        skeleton_of(container, manifest)
    assert time.process_time() - started < 2
    assert "\n" not in str(error.value)


def test_loading_looks_at_the_config(container: Path) -> None:
    planned = plan(container)
    change(container, num_hidden_layers=10**6)
    with pytest.raises(UserError, match="makes no model"):
        load(container)
    assert plan(container) == planned  # needs no config: the manifest says all


def test_a_config_that_was_changed(container: Path) -> None:
    """One bit of a number that no shape shows: the model would compute something else."""
    path = container / "config.json"
    text = path.read_text()
    epsilon = json.loads(text)["rms_norm_eps"]
    path.write_text(text.replace(str(epsilon), str(epsilon * 2)))
    with pytest.raises(UserError, match=r"config\.json: is not what was written: its checksum is"):
        load(container)
    assert load(container, verify=False).config.rms_norm_eps == epsilon * 2


def test_the_hooks_of_torch_are_left_as_they_were(container: Path) -> None:
    from torch.nn.modules import module

    before = len(module._global_module_registration_hooks)
    skeleton_of(container, read_manifest(container))
    assert len(module._global_module_registration_hooks) == before
