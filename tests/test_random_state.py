"""No public call touches the random states of Python, numpy and torch that belong to the caller."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.style  # noqa: F401  # draws a number when it is imported, once
import torch
from command_line import call
from transformers import AutoModelForCausalLM

import bitstack
from hub_server import HubServer

CALLS: dict[str, Callable[..., object]] = {
    "compress": lambda made: bitstack.compress(
        made.model, made.new, calibration=str(made.text), num_samples=3, seq_len=24,
        order_samples=1, order="predicted", blocks=2, search_sweeps=1, joint_passes=1, tune_steps=2,
    ),
    "compress, published": lambda made: bitstack.compress(
        made.model, made.new, recipe="paper", calibration=str(made.text), num_samples=2,
        seq_len=24, order_samples=1, blocks=1, rank=2,
    ),
    "load": lambda made: bitstack.load(made.container, "50%"),
    "from_pretrained": lambda made: AutoModelForCausalLM.from_pretrained(
        made.container, variant="bitstack"
    ),
    "resize": lambda made: bitstack.resize(bitstack.load(made.container), "25%"),
    "plan": lambda made: bitstack.plan(made.container),
    "export": lambda made: bitstack.export(made.container, made.new),
    "evaluate": lambda made: bitstack.evaluate(made.container, made.text, window=16),
    "verify": lambda made: bitstack.verify(made.container),
    "load_recipe": lambda made: bitstack.load_recipe("best"),
    "set_accuracy": lambda made: bitstack.set_accuracy(bitstack.set_accuracy("exact")),
    "push": lambda made: bitstack.push(made.container, "me/model", dry_run=True),
    "save_pretrained": lambda made: bitstack.load(made.container).save_pretrained(made.new),
    "follow_memory": lambda made: follow(bitstack.load(made.container)),
    "generate, drafted": lambda made: bitstack.load(made.container).generate(
        torch.tensor([[5, 9, 2]]), max_new_tokens=4, do_sample=False, draft_budget="2bpw"
    ),
    "command generate": lambda made: command(
        "generate", made.container, "--prompt", "The", "--max-new-tokens", 4
    ),
    "command generate, sampled": lambda made: command(
        "generate", made.container, "--prompt", "The", "--max-new-tokens", 4, "--temperature", 1
    ),
    "command eval": lambda made: command("eval", made.container, "--text", made.text),
    "command report": lambda made: command(
        "report", made.container, "--text", made.text, "--output", made.new.with_suffix(".html")
    ),
}  # fmt: skip


class Made:
    """What the calls take."""

    def __init__(self, model: Path, container: Path, text: Path, new: Path) -> None:
        self.model, self.container, self.text, self.new = model, container, text, new


def command(*args: object) -> None:
    result = call(*args)
    assert result.exit_code == 0, result.output


def follow(model: Any) -> None:
    with bitstack.follow_memory(model, "1MB", interval=60, free=lambda: 0) as follower:
        follower.step()


@pytest.mark.parametrize("name", CALLS)
def test_the_three_random_states_are_left_alone(
    pico_model: Callable[..., Path], stacked: Callable[..., Path], text_file: Path,
    tmp_path: Path, hub: HubServer, name: str,
) -> None:  # fmt: skip
    container = stacked("llama-tied")
    made = Made(pico_model("llama-tied"), container, text_file, tmp_path / "new")
    python, numpy, torched = random.getstate(), np.random.get_state(), torch.get_rng_state()
    CALLS[name](made)
    assert random.getstate() == python
    after = np.random.get_state()
    assert after[0] == numpy[0]
    assert np.array_equal(after[1], numpy[1])
    assert after[2:] == numpy[2:]
    assert torch.equal(torch.get_rng_state(), torched)


def test_every_public_call_is_among_them() -> None:
    named = {name.partition(",")[0] for name in CALLS}
    functions = {n for n in bitstack.__all__ if callable(getattr(bitstack, n))}
    assert functions - {"Recipe", "UserError"} <= named
