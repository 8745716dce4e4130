"""A model run layer by layer gives what it gives whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Gemma3nTextConfig

import pico
from bitstack.calibration.layers import LayerRunner
from bitstack.errors import UserError
from bitstack.original.source import open_source

Folder = Callable[..., Path]
LENGTH = 40  # beyond every sliding window of the pico models


def windows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(pico.VOCABULARY, (5, LENGTH), generator=generator)
    return list(ids.split(2))  # the last batch is smaller


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_logits_are_those_of_the_whole_model(pico_model: Folder, name: str) -> None:
    whole = AutoModelForCausalLM.from_pretrained(pico_model(name))
    runner = LayerRunner(open_source(pico_model(name)), windows())
    assert len(runner) == 2
    with torch.no_grad(), runner.outer_loaded():
        hidden = runner.embed_all()
        for index in range(len(runner)):
            with runner.layer_loaded(index):
                hidden = [runner.run_layer(index, h) for h in hidden]
        for batch, ids in enumerate(runner.windows):
            expected = whole(ids)
            torch.testing.assert_close(
                runner.logits(batch, hidden[batch]), expected.logits, rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_products_in_bf16_are_near_and_states_stay_in_fp32(pico_model: Folder, name: str) -> None:
    exact = LayerRunner(open_source(pico_model(name)), windows()[:1])
    near = LayerRunner(open_source(pico_model(name)), windows()[:1], dtype=torch.bfloat16)
    results = []
    for runner in (exact, near):
        with torch.no_grad(), runner.outer_loaded():
            hidden = runner.embed_all()[0]
            for index in range(len(runner)):
                with runner.layer_loaded(index):
                    hidden = runner.run_layer(index, hidden)
            results.append((hidden, runner.logits(0, hidden).float()))
    (states, logits), (rounded, others) = results
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, states)
    assert (rounded - states).norm() < 0.05 * states.norm()
    assert (others - logits).norm() < 0.05 * logits.norm()


@pytest.mark.parametrize("model_type", ["roc_bert", "xmod"])
def test_code_that_wants_one_dtype_gets_it(tmp_path: Path, model_type: str) -> None:
    """RoCBert's embedding ends in a product, in bf16; Xmod writes one into a tensor in fp32."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": pico.VOCABULARY}
    config = CONFIG_MAPPING[model_type](
        num_hidden_layers=2,
        num_attention_heads=2,
        is_decoder=True,
        default_language="en_XX",
        **sizes,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    states = []
    for dtype in (torch.float32, torch.bfloat16):
        runner = LayerRunner(open_source(tmp_path), windows()[:1], dtype=dtype)
        with torch.no_grad(), runner.outer_loaded():
            hidden = runner.embed_all()[0]
            assert hidden.dtype == torch.float32
            for index in range(len(runner)):
                with runner.layer_loaded(index):
                    hidden = runner.run_layer(index, hidden)
        states.append(hidden)
    assert states[1].dtype == torch.float32
    assert (states[1] - states[0]).norm() < 0.05 * states[0].norm()


def test_the_two_kinds_of_gemma_3_layers_are_called_each_in_its_way(pico_model: Folder) -> None:
    """Swapped calls would change the outcome: the test above sees masks and positions."""
    runner = LayerRunner(open_source(pico_model("gemma-3")), windows())
    with torch.no_grad(), runner.outer_loaded():
        (hidden, *_) = runner.embed_all()
        first, second = runner.calls[hidden.shape]
        with runner.layer_loaded(1):
            right = runner.run_layer(1, hidden)
            runner.calls[hidden.shape] = [second, first]
            wrong = runner.run_layer(1, hidden)
    assert (right - wrong).norm() > 0.01 * right.norm()


def test_layers_that_read_the_text_themselves_are_refused(tmp_path: Path) -> None:
    """Gemma 3n gives every layer an embedding of the ids of its own, and keys of earlier layers."""
    config = Gemma3nTextConfig(
        **pico.SIZES | {"num_key_value_heads": 2, "head_dim": 12},
        layer_types=["sliding_attention", "full_attention"],
        num_kv_shared_layers=0,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=pico.VOCABULARY,
        altup_num_inputs=2,
        laurel_rank=4,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    runner = LayerRunner(open_source(tmp_path), windows())
    with pytest.raises(UserError, match="use --calibration none"), runner.outer_loaded():
        runner.embed_all()


def test_one_layer_is_real_at_a_time(pico_model: Folder) -> None:
    source = open_source(pico_model("llama-untied"))
    runner = LayerRunner(source, windows())
    assert {*runner.outer_parameters} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    }

    def real() -> set[str]:
        return {name for name, p in source.model.named_parameters() if not p.is_meta}

    with runner.outer_loaded():
        assert real() == {*runner.outer_parameters}
        for index in range(len(runner)):
            with runner.layer_loaded(index):
                assert real() == {*runner.outer_parameters, *runner.layer_parameters[index]}
        assert real() == {*runner.outer_parameters}
    assert not real()


def test_released_when_the_caller_fails(pico_model: Folder) -> None:
    source = open_source(pico_model("llama-tied"))
    runner = LayerRunner(source, windows())
    with pytest.raises(RuntimeError), runner.outer_loaded(), runner.layer_loaded(0):
        raise RuntimeError
    assert all(p.is_meta for p in source.model.parameters())


def test_the_model_is_whole_again_afterwards(pico_model: Folder) -> None:
    """Stubs are taken out: the same skeleton, loaded, runs as always."""
    source = open_source(pico_model("gemma-3"))
    runner = LayerRunner(source, windows())
    with torch.no_grad(), runner.outer_loaded():
        runner.embed_all()
    source.load([name for name, _ in source.model.named_parameters()])
    reference = AutoModelForCausalLM.from_pretrained(pico_model("gemma-3"))
    with torch.no_grad():
        logits, expected = source.model(windows()[0]).logits, reference(windows()[0]).logits
    torch.testing.assert_close(logits, expected)
