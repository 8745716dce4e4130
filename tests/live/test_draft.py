"""Drafts by the model's own first levels: the same text, the same planes, a few scale sets more."""

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer
from typer.testing import CliRunner

import pico
from bitstack import UserError, load, recipes, resize
from bitstack.cli import app
from bitstack.compression.pipeline import compress
from bitstack.container.manifest import read_manifest
from bitstack.live.draft import draft
from bitstack.live.generation import generate
from bitstack.live.opening import open_model
from bitstack.original.source import load_tokenizer

Folder = Callable[..., Path]
WORDS = pico.TEXT.split()
GREEDY: dict[str, Any] = {"max_new_tokens": 30, "do_sample": False}


@pytest.fixture(scope="module")
def free(stacked: Folder) -> Folder:
    return lambda name, **more: stacked(name, calibration="none", **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, in bf16: its text has near ties, as real ones have."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    quick = {"search_sweeps": 0, "joint_passes": 0, "tune_steps": 0, "blocks": 4}
    return compress(recipes.demo_model(), folder, calibration="none", **quick)


def prompt(tokens: int, start: int = 0) -> Tensor:
    ids = pico.tokenizer()(" ".join(WORDS[start:]))["input_ids"]
    return torch.tensor([ids[:tokens]])


def share(container: Path, part: float) -> int:
    budgets = read_manifest(container).budgets
    return budgets.floor_bytes + int(part * (budgets.total_bytes - budgets.floor_bytes))


def test_the_text_of_a_trained_model_in_bf16(trained: Path) -> None:
    """Six prompts, 40 tokens each, two drafts: not one token differs, and forwards are saved."""
    model, tokenizer = load(trained), load_tokenizer(trained)
    assert model.dtype == torch.bfloat16
    steps: list[int] = []
    model.register_forward_pre_hook(
        lambda m, a, given: steps.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    for i in range(6):
        text = " ".join(WORDS[5 * i : 5 * i + 2 + 4 * i])
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        plain = model.generate(ids, max_new_tokens=40, do_sample=False)
        for part in (0.2, 0.6):
            steps.clear()
            drafted = model.generate(
                ids, max_new_tokens=40, do_sample=False, draft_budget=share(trained, part)
            )
            assert torch.equal(plain, drafted)
            if part == 0.6:
                assert len(steps) < 0.8 * (plain.shape[1] - ids.shape[1])


@pytest.mark.parametrize(
    "name", ["llama-gqa", "llama-tied", "mistral", "gemma-2", "gemma-3", "gpt-2", "mixtral", "opt"]
)
def test_the_text_of_every_layout(free: Folder, name: str) -> None:
    """Sliding windows (16) are left behind; a prompt of one token and one of many."""
    model = load(free(name))
    attention = model.config._attn_implementation
    for tokens, part in ((1, 0.2), (9, 0.5), (40, 0.0)):
        plain = model.generate(prompt(tokens), **GREEDY)
        drafted = model.generate(prompt(tokens), draft_budget=share(free(name), part), **GREEDY)
        assert torch.equal(plain, drafted)
    assert model.config._attn_implementation == attention
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("chains", [(8,), (4,), (2, 4)])
@pytest.mark.parametrize("name", ["llama-tied", "gemma-3", "mixtral", "paper"])
def test_planes_are_shared_and_what_is_not_is_counted(
    free: Folder, stacked: Folder, name: str, chains: tuple[int, ...]
) -> None:
    signs = {"method": "signs", "blocks": 3, "rank": 2, "column_scaling": False}
    container = (
        stacked("llama-gqa", calibration="none", **signs)
        if name == "paper"
        else free(name, chains=chains)
    )
    model = load(container)
    resident = model.bitstack
    alone = resident.resident_bytes
    own = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    with draft(model, share(container, 0.4)) as small:
        (view,) = resident.views
        assert view.max_levels == read_manifest(container).budgets.levels(share(container, 0.4))[0]
        tensors = {t.data_ptr(): t for t in (*small.parameters(), *small.buffers()) if t.numel()}
        extra = sum(t.nbytes for at, t in tensors.items() if at not in own)
        lacking = sum(
            spec.bytes
            for entry, level, top in zip(
                resident.manifest.stacks, view.max_levels, resident.levels, strict=True
            )
            for spec in entry.spec.resident(level)
            if spec not in entry.spec.resident(top)
        )
        assert extra == lacking == resident.resident_bytes - alone
        at_budget = load(container, share(container, 0.4))
        assert torch.equal(small(prompt(9)).logits, at_budget(prompt(9)).logits)
    assert resident.resident_bytes == alone
    assert resident.views == []


class Each(BaseStreamer):
    """Calls `action` with every piece of text."""

    def __init__(self, action: Callable[[int], object]) -> None:
        self.action, self.count = action, 0

    def put(self, value: Tensor) -> None:
        self.action(self.count)
        self.count += 1

    def end(self) -> None:
        pass


def test_a_draft_follows_resizes(free: Folder) -> None:
    """Blocks that the model gives up are not kept by its draft."""
    container = free("llama-gqa", chains=(8,))
    model = load(container)
    budgets = [share(container, part) for part in (0.9, 0.1, 0.0, 0.5, 1.0)]
    seen: list[tuple[list[int], list[int]]] = []
    planes = [weakref.ref(s._buffers["plane_8"]) for s in model.bitstack.stacks]

    def change(count: int) -> None:
        resize(model, budgets[count % len(budgets)])
        (view,) = model.bitstack.views
        levels = [s.level for s in view.stacks]
        wanted = [min(pair) for pair in zip(view.max_levels, model.bitstack.levels, strict=True)]
        assert levels == wanted
        held = {id(t) for t in model.buffers()}
        kept = [t for s in view.stacks for n, t in s.named_buffers() if n.startswith("plane")]
        assert all(id(t) in held for t in kept)
        seen.append((levels, list(model.bitstack.levels)))

    model.generate(prompt(9), draft_budget=share(container, 0.4), streamer=Each(change), **GREEDY)
    assert len({tuple(levels) for levels, _ in seen}) > 1
    assert all(plane() is None for plane in planes)
    resize(model)
    plain = load(container).generate(prompt(9), **GREEDY)
    assert torch.equal(model.generate(prompt(9), draft_budget=budgets[1], **GREEDY), plain)


def test_two_threads_at_once(free: Folder) -> None:
    container = free("llama-gqa")
    model = load(container)
    plain = [model.generate(prompt(12, i), **GREEDY) for i in range(3)]
    texts: dict[int, Tensor] = {}

    def run(i: int) -> None:
        options = {} if i == 2 else {"draft_budget": share(container, 0.2 * (i + 1))}
        texts[i] = model.generate(prompt(12, i), **options, **GREEDY)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.equal(texts[i], plain[i]) for i in range(3))
    assert model.config._attn_implementation == "sdpa"
    assert model.bitstack.views == []


def test_sampling_with_a_draft(free: Folder) -> None:
    model = load(free("llama-gqa"))
    drafted = {"draft_budget": share(free("llama-gqa"), 0.3), "do_sample": True}
    torch.manual_seed(0)
    out = model.generate(prompt(9), max_new_tokens=20, min_new_tokens=20, **drafted)
    assert out.shape == (1, 29)
    assert torch.equal(out[:, :9], prompt(9))


def test_an_error_leaves_nothing_behind(free: Folder) -> None:
    model = load(free("llama-gqa"))

    def fail(count: int) -> None:
        if count == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate(
            prompt(9), draft_budget=share(free("llama-gqa"), 0.3), streamer=Each(fail), **GREEDY
        )
    assert model.bitstack.views == []
    assert model.config._attn_implementation == "sdpa"
    assert not model._forward_hooks
    resize(model, share(free("llama-gqa"), 0.5))


def test_what_cannot_be_drafted(free: Folder) -> None:
    container = free("llama-gqa")
    model, low = load(container, share(container, 0.3)), share(container, 0.0)
    with pytest.raises(UserError, match=r"draft budget 1GiB: is not below the .* holds now"):
        model.generate(prompt(5), draft_budget="1GiB")
    with pytest.raises(UserError, match="below the floor"):
        model.generate(prompt(5), draft_budget=1000)
    with pytest.raises(UserError, match="2 sequences were given"):
        model.generate(prompt(5).repeat(2, 1), draft_budget=low)
    with pytest.raises(UserError, match="num_beams is 3, drafts need 1"):
        model.generate(prompt(5), draft_budget=low, num_beams=3)
    with pytest.raises(UserError, match="an assistant_model was given too"):
        model.generate(prompt(5), draft_budget=low, assistant_model=model)
    assert model.bitstack.views == []


def test_generate_and_the_command(free: Folder, pico_model: Folder) -> None:
    container = free("llama-gqa")
    budget = share(container, 0.5)
    opened = open_model(container, device="cpu")
    plain = generate(opened, "The river", max_new_tokens=20)
    assert plain
    assert generate(opened, "The river", max_new_tokens=20, draft_budget=budget) == plain
    original = open_model(pico_model("llama-gqa"), device="cpu")
    with pytest.raises(UserError, match="an original model has no blocks to draft with"):
        generate(original, "The river", draft_budget=budget)
    args = ["generate", str(container), "--prompt", "The river", "--device", "cpu"]
    args += ["--max-new-tokens", "20"]
    outputs = [
        CliRunner().invoke(app, [*args, *more]) for more in ([], ["--draft-budget", str(budget)])
    ]
    assert [o.exit_code for o in outputs] == [0, 0]
    assert outputs[0].stdout == outputs[1].stdout != ""
