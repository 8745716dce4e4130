"""What goes into a folder beside weights: tokenizer, settings and licence, and the right config."""

import json
from pathlib import Path

import torch
from transformers import Gemma3Config, Gemma3TextConfig, LlamaConfig

import pico
from bitstack.original.side_files import config_of, copy_beside, write_config
from bitstack.original.skeleton import skeleton


def test_what_is_copied_and_what_not(tmp_path: Path) -> None:
    source, folder = pico.save("llama-tied", tmp_path / "source"), tmp_path / "folder"
    folder.mkdir()
    more = ["LICENSE.txt", "merges.txt", "vocab.json", "chat_template.jinja"]
    left = ["README.md", "own.py", "optimizer.pt", "model.safetensors.index.json"]
    for name in more + left:
        (source / name).write_text(f"text of {name}")
    copy_beside(source, folder)
    copied = {path.name for path in folder.iterdir()}
    assert copied == {*more, "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    for name in copied:
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    assert pico.tokenizer().from_pretrained(folder).get_vocab() == pico.tokenizer().get_vocab()


def test_a_config_like_the_folders_is_the_models_own(tmp_path: Path) -> None:
    LlamaConfig(**pico.SIZES).save_pretrained(tmp_path)
    model = skeleton(LlamaConfig(**pico.SIZES | {"rms_norm_eps": 0.5}), torch.float32)
    config = config_of(model, tmp_path, "bfloat16")
    assert isinstance(config, LlamaConfig)
    assert config.rms_norm_eps == 0.5
    assert config.architectures == ["LlamaForCausalLM"]
    assert str(config.dtype).removeprefix("torch.") == "bfloat16"
    config.rms_norm_eps = 0.25  # a copy: the model keeps its own
    assert model.config.rms_norm_eps == 0.5
    assert model.config.dtype == torch.float32


def test_a_text_part_keeps_the_config_of_the_whole_model(tmp_path: Path) -> None:
    text = pico.FAMILIES["gemma-3"]()
    Gemma3Config(text_config=text.to_dict()).save_pretrained(tmp_path)
    model = skeleton(text, torch.float32)
    assert isinstance(model.config, Gemma3TextConfig)
    config = config_of(model, tmp_path, "float16")
    assert isinstance(config, Gemma3Config)
    assert config.text_config.hidden_size == 32
    assert config.architectures == ["Gemma3ForCausalLM"]


def test_a_folder_called_tokenizer_harms_nothing(tmp_path: Path) -> None:
    source, folder = pico.save("llama-tied", tmp_path / "source"), tmp_path / "folder"
    folder.mkdir()
    (source / "tokenizer").mkdir()
    (source / "tokenizer" / "notes.txt").write_text("text")
    (source / "vocab").mkdir()
    (source / "LICENSE").symlink_to(tmp_path / "gone")
    copy_beside(source, folder)
    assert pico.tokenizer().from_pretrained(folder)
    assert not (folder / "tokenizer").exists()


def test_several_chat_templates_go_along(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    folder.mkdir()
    tokenizer = pico.tokenizer().from_pretrained(pico.save("llama-tied", source))
    tokenizer.chat_template = {"default": "a", "tool_use": "b", "rag": "c"}
    tokenizer.save_pretrained(source)
    copy_beside(source, folder)
    assert pico.tokenizer().from_pretrained(folder).chat_template == tokenizer.chat_template


def test_a_config_is_valid_json_and_reads_back(tmp_path: Path) -> None:
    """Infinity is none of JSON's numbers; settings of generation are no reason to stop."""
    config = LlamaConfig(**pico.SIZES, transformers_weights="mine.safetensors")
    config.limit, config.temperature = float("inf"), 0.5
    write_config(config, tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = (tmp_path / "config.json").read_text()
    held = json.loads(text, parse_constant=refuse)
    assert "transformers_weights" not in held
    again = LlamaConfig.from_pretrained(tmp_path)
    assert again.limit == float("inf")
    assert again.hidden_size == config.hidden_size


def test_paths_of_the_disk_are_left_out(tmp_path: Path) -> None:
    source, folder = pico.save("llama-tied", tmp_path / "source"), tmp_path / "folder"
    folder.mkdir()
    kept = {"name_or_path": "owner/name", "model_max_length": 7, "bos_token": "/s"}
    given = kept | {"special_tokens_map_file": "/home/me/map.json", "tokenizer_file": r"C:\me\t"}
    (source / "tokenizer_config.json").write_text(json.dumps(given))
    copy_beside(source, folder)
    assert json.loads((folder / "tokenizer_config.json").read_text()) == kept
    config = Gemma3Config(text_config=pico.FAMILIES["gemma-3"]().to_dict())
    config._name_or_path = config.text_config._name_or_path = "/home/me/model"
    write_config(config, folder)
    assert "/home/me" not in (folder / "config.json").read_text()
    config.text_config._name_or_path = config._name_or_path = ""
    plain = json.loads(config.to_json_string())
    plain["text_config"].pop("_name_or_path", None)
    plain["vision_config"].pop("_name_or_path", None)
    assert json.loads((folder / "config.json").read_text()) == plain
