"""The files beside the tensors: listed, compared, and none that could block or lead away."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack import UserError, load
from bitstack.container.manifest import read_manifest
from bitstack.container.small_files import check_plain, check_sums, sums_of
from bitstack.live.opening import open_model
from damage import copied, flip, make_pipe

Folder = Callable[..., Path]


@pytest.fixture
def container(stacked: Folder, tmp_path: Path) -> Path:
    return copied(stacked("llama-gqa", blocks=2), tmp_path)


def test_what_is_listed(container: Path) -> None:
    manifest = read_manifest(container)
    names = {"config.json", "generation_config.json", "recipe.yaml", "tokenizer.json"}
    assert names <= manifest.files.keys()
    assert manifest.files == sums_of(container)
    check_sums(container, manifest)


def test_a_saved_model_lists_its_own(container: Path, tmp_path: Path) -> None:
    load(container, level=1).save_pretrained(tmp_path / "saved")
    files = read_manifest(tmp_path / "saved").files
    assert set(files) == {"config.json", "generation_config.json"}
    assert load(tmp_path / "saved").bitstack.levels == load(container, level=1).bitstack.levels


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_was_changed(container: Path, name: str) -> None:
    flip(container / name, 40)
    load(container)  # reads none
    with pytest.raises(UserError, match=f"{name}: is not what was written|no usable tokenizer"):
        open_model(container, device="cpu")


def test_a_missing_file(container: Path) -> None:
    (container / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"recipe\.yaml: missing, but the manifest lists it"):
        check_sums(container, read_manifest(container))


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.model", "chat_template.jinja"])
def test_a_pipe_where_transformers_looks(container: Path, name: str) -> None:
    make_pipe(container / name)
    with pytest.raises(UserError, match=f"{name}: is no regular file"):
        check_plain(container)
    (container / name).unlink()
    (container / "notes").symlink_to("/etc")  # nobody opens it
    check_plain(container)


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, "\0"])
def test_garbage_in_generation_settings(container: Path, content: str) -> None:
    (container / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match="generation_config"):
        load(container)
    with pytest.raises(UserError, match=r"generation_config\.json cannot be read"):
        load(container, verify=False)
