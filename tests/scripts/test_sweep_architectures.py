"""The sweep over architectures: a sample of it, and that it finds a model that is not the same."""

from pathlib import Path

import pytest
import sweep_architectures
import torch
from sweep import trial
from sweep.configs import build, small_config
from transformers import AutoModelForCausalLM

import pico

# Ways to compute that others have too: products of its own, experts fused, by list and all at once,
# latent attention, recurrence, positions added, another list of layers for images.
SAMPLE = ("falcon", "camembert", "jetmoe", "llama4_text", "deepseek_v3", "mamba", "opt", "gemma3")

# Default configs with lists by layer, sizes in configs inside, and fields left empty.
SMALL = ("bamba", "deepseek_v4", "emu3", "gemma4_text", "glm4_moe", "jamba", "kimi_linear", "mpt",
         "nemotron_h", "phi4_multimodal", "qwen3_next", "xlstm", "zamba2")  # fmt: skip


@pytest.mark.parametrize("model_type", SAMPLE)
def test_architectures_end_right(model_type: str) -> None:
    row = sweep_architectures.measure(model_type)
    assert row.reason == ""
    ends = [(t.verdict, t.detail) for t in row.trials]
    assert ends == [(trial.RIGHT, "")] * len(trial.WAYS)


def test_layers_that_are_given_an_empty_store_run_one_by_one(tmp_path: Path) -> None:
    """Gemma 4's larger shape: a dictionary for keys and values, which none of its layers uses."""
    config = small_config("gemma4_text", pico.VOCABULARY)
    config.hidden_size_per_layer_input = 0
    way = trial.WAYS[1]
    trial.save(build(config), tmp_path / way, way)
    pico.tokenizer().save_pretrained(tmp_path / way)
    (tmp_path / "text.txt").write_text(sweep_architectures.TEXT)
    assert trial.run(tmp_path, way, tmp_path / "text.txt").verdict == trial.RIGHT


def test_a_model_that_is_not_the_original_is_called_wrong(
    tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = trial.WAYS[0]
    trial.save(build(small_config("llama", pico.VOCABULARY)), tmp_path / way, way)
    pico.tokenizer().save_pretrained(tmp_path / way)
    load = trial.bitstack.load

    def one_row_moved(container: Path) -> torch.nn.Module:
        model = load(container)
        with torch.no_grad():
            model.model.norm.weight.mul_(torch.linspace(0.7, 1.3, 64))
        return model

    monkeypatch.setattr(trial.bitstack, "load", one_row_moved)
    end = trial.run(tmp_path, way, text_file)
    assert (end.verdict, end.detail[:28]) == (trial.WRONG, "logits differ from the model")


@pytest.mark.parametrize("model_type", SMALL)
def test_small_models_are_small(model_type: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small_config(model_type, pico.VOCABULARY))
    assert sum(p.numel() for p in model.parameters()) < 5e6


def test_the_table_names_types_that_do_not_build() -> None:
    rows = [sweep_architectures.Row("odd", "", "ValueError: no", 0.0, [])]
    assert sweep_architectures.line(rows[0]).split()[:3] == ["odd", "not", "built:"]
    assert sweep_architectures.summary(rows).startswith("0 of 1 model types built")
