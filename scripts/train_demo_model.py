#!/usr/bin/env python
"""Trains a small Llama and its tokenizer on any text. The demo model was made with it.

    python scripts/train_demo_model.py books/ my-model --valid other-books/

The defaults are the shape, tokens and steps of `recipes/demo-model`. The same seed gives the same
weights on the same machine, and --resume goes on after an interruption. During training all files
lie in OUTPUT.part, which becomes OUTPUT at the end.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from bitstack.errors import UserError
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.documents import read_documents
from bitstack.original.text import Tokens, token_ids

END = "<|endoftext|>"  # id 0, between documents; separates books within one text file too
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Settings:
    """Everything besides the text that the weights depend on."""

    vocabulary: int = 4096
    hidden: int = 256
    intermediate: int = 704
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    positions: int = 1024  # longest context in tokens
    tokens: int = 18_522_112  # to train on, rounded down to whole steps
    window: int = 256  # tokens
    batch: int = 32  # windows in a step
    rate: float = 2e-3  # highest learning rate
    warmup: int = 100  # steps
    decay: float = 0.1  # weight decay, of matrices only
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.tokens // (self.window * self.batch)


class Training:
    """The state between two steps: model, optimizer, schedule, number of steps done."""

    def __init__(self, settings: Settings, device: str) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.step = settings, 0
        self.model = LlamaForCausalLM(llama_config(settings))
        self.model.to(torch.device(device))  # type: ignore[arg-type]
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": settings.decay},
            {"params": vectors},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=settings.rate,
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )
        self.schedule = get_cosine_schedule_with_warmup(
            self.optimizer, settings.warmup, settings.steps
        )

    def advance(self, ids: Tensor) -> Tensor:
        """Trains one step on the next windows; returns the loss, a scalar in nats."""
        starts = window_starts(self.settings, len(ids), self.step)
        batch = ids[starts.unsqueeze(1) + torch.arange(self.settings.window)]
        batch = batch.to(self.model.device)
        loss = self.model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from the `state` of a checkpoint."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"].cpu())


def llama_config(settings: Settings) -> LlamaConfig:
    """Returns the config of the model.

    Raises:
        UserError: Sizes do not go together.
    """
    if settings.window > settings.positions:
        raise UserError(
            f"window is {settings.window} tokens; it must be at most {settings.positions}, the "
            "positions of the model"
        )
    for whole, part in (("hidden", "heads"), ("heads", "kv_heads")):
        if getattr(settings, whole) % getattr(settings, part):
            raise UserError(
                f"{whole} is {getattr(settings, whole)}, {part} {getattr(settings, part)}; "
                f"{whole} must be a multiple of {part}"
            )
    return LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.positions,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def documents(source: str) -> list[str]:
    """Returns the documents of a text source, split at END."""
    parts = (part for text in read_documents(source) for part in text.split(END))
    return [part for part in parts if part.strip()]


def train_tokenizer(texts: list[str], settings: Settings) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE like that of GPT-2, which encodes and decodes any text.

    Raises:
        UserError: The text gives another number of tokens than `settings.vocabulary`.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    size = backend.get_vocab_size()
    if size != settings.vocabulary:
        raise UserError(
            f"vocabulary is {settings.vocabulary}, but this text gives {size} tokens; it must be "
            f"at least 257 and at most what the text gives; set it to {size} or give more text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END,
        eos_token=END,
        model_max_length=settings.positions,
    )


def encode(texts: list[str], tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Tensor:
    """Returns the tokens of all texts, the end token after each, int64 [N].

    Raises:
        UserError: The text, or `settings.tokens`, is too short.
    """
    rows = tokenizer(texts, verbose=False)["input_ids"]
    ids = torch.tensor([i for row in rows for i in (*row, 0)], dtype=torch.int64)
    if settings.steps < 1:
        raise UserError(
            f"tokens is {settings.tokens}; it must be at least {settings.window * settings.batch}, "
            "one step"
        )
    if len(ids) < settings.window:
        raise UserError(
            f"text too short: {len(ids)} tokens found, {settings.window} needed for one window; "
            "give more text or a shorter window"
        )
    return ids


def window_starts(settings: Settings, size: int, step: int) -> Tensor:
    """Returns where the windows of a step begin, int64 [batch].

    Each window comes once before any comes again. Depends on seed and step alone, so that a resumed
    run reads the same windows.
    """
    count = size // settings.window
    places = range(step * settings.batch, (step + 1) * settings.batch)
    chosen = [shuffled(count, settings.seed, place // count)[place % count] for place in places]
    return torch.stack(chosen) * settings.window


@lru_cache(maxsize=2)
def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """Returns the order of the windows in an epoch, int64 [count]."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))


def save_checkpoint(training: Training, path: Path, text: str) -> None:
    """Writes a checkpoint beside `path` and then renames it, so that it is whole or not there."""
    part = path.with_suffix(".tmp")
    with part.open("wb") as file:
        settings = asdict(training.settings)
        torch.save({"settings": settings, "text": text, **training.state()}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_checkpoint(training: Training, path: Path, text: str) -> None:
    """Restores a checkpoint.

    Raises:
        UserError: It was made with other settings or another text.
    """
    state = torch.load(path, map_location=training.model.device, weights_only=True)
    for name, value in asdict(training.settings).items():
        if state["settings"][name] != value:
            raise UserError(
                f"{name} is {value}, but {path} was made with {state['settings'][name]}; "
                "resume with the settings of the first run"
            )
    if state["text"] != text:
        raise UserError(f"{path} was made from another text; resume with the text of the first run")
    training.restore(state)


def train(
    source: str,
    output: Path,
    settings: Settings,
    *,
    valid: str | None = None,
    resume: bool = False,
    save_every: int = 100,
    device: str = "cpu",
) -> dict[str, Any]:
    """Trains a model and writes it.

    Args:
        source: Text to train on: file, folder or .jsonl.
        output: A new folder.
        settings: Sizes and hyperparameters.
        valid: Held-out text, whose loss goes into train.json.
        resume: Go on from the checkpoint of an interrupted run.
        save_every: Steps between checkpoints.
        device: cpu, cuda or cuda:N.

    Returns:
        The content of train.json.

    Raises:
        UserError: As the functions of this module.
    """
    part = output.with_name(output.name + ".part")
    check_folders(output, part, resume)
    texts = documents(source)
    tokenizer = load_tokenizer(part) if resume else train_tokenizer(texts, settings)
    ids = encode(texts, tokenizer, settings)
    held_out = None if valid is None else token_ids(valid, tokenizer)
    training = Training(settings, device)
    text = hashlib.sha256(ids.numpy().tobytes()).hexdigest()
    if resume:
        load_checkpoint(training, part / CHECKPOINT, text)
    else:
        part.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(part)
    run(training, ids, save_every, lambda: save_checkpoint(training, part / CHECKPOINT, text))
    return finish(training, tokenizer, held_out, part, output)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Returns the tokenizer that an interrupted run trained."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def check_folders(output: Path, part: Path, resume: bool) -> None:
    """Raises UserError where `output` is taken, or `part` does not go with `resume`."""
    if output.exists():
        raise UserError(f"{output} exists already; name a new folder or remove it")
    if resume and not (part / CHECKPOINT).exists():
        raise UserError(f"{part} holds no {CHECKPOINT} to resume from; start without --resume")
    if not resume and (part / CHECKPOINT).exists():
        raise UserError(f"{part} is left of another run; go on with --resume or remove it")


def run(training: Training, ids: Tensor, save_every: int, save: Callable[[], None]) -> None:
    """Trains all remaining steps, with a `save` every `save_every` steps."""
    steps = training.settings.steps
    training.model.train()
    with tqdm(total=steps, initial=training.step, unit="step", disable=None) as bar:
        while training.step < steps:
            loss = training.advance(ids)
            bar.update()
            if training.step % 10 == 0:
                bar.set_postfix(loss=f"{loss:.3f}")
            if training.step % save_every == 0:
                save()
    training.model.eval()


def finish(
    training: Training,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Tokens | None,
    part: Path,
    output: Path,
) -> dict[str, Any]:
    """Writes bf16 weights and train.json, removes the checkpoint, renames `part` to `output`."""
    model, settings = training.model.bfloat16(), training.settings
    model.save_pretrained(part)
    total = model.num_parameters()
    facts = {
        "tokens": settings.steps * settings.window * settings.batch,
        "steps": settings.steps,
        "params": total,
        "non_embedding": total - settings.vocabulary * settings.hidden,
        "seed": settings.seed,
    }
    if held_out is not None:
        scored = perplexity(model, held_out, window=settings.window)
        facts |= {"valid_nll_per_token": scored.nll_per_token, "valid_window": scored.window}
    (part / "train.json").write_text(json.dumps(facts, indent=2) + "\n")
    (part / CHECKPOINT).unlink(missing_ok=True)
    part.rename(output)
    return facts


def main(
    text: Annotated[str, typer.Argument(help="Text file, folder of text files, or .jsonl.")],
    output: Annotated[Path, typer.Argument(help="New folder for the model.")],
    valid: Annotated[str | None, typer.Option(help="Held-out text to measure the loss on.")] = None,
    vocabulary: Annotated[int, typer.Option(help="Tokens of the tokenizer.")] = Settings.vocabulary,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = Settings.hidden,
    intermediate: Annotated[
        int, typer.Option(help="Size of the feed-forward layers.")
    ] = Settings.intermediate,
    layers: Annotated[int, typer.Option(help="Number of layers.")] = Settings.layers,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = Settings.heads,
    kv_heads: Annotated[int, typer.Option(help="Key and value heads.")] = Settings.kv_heads,
    positions: Annotated[int, typer.Option(help="Longest context in tokens.")] = Settings.positions,
    tokens: Annotated[int, typer.Option(help="Tokens to train on.")] = Settings.tokens,
    window: Annotated[int, typer.Option(help="Tokens of a window.")] = Settings.window,
    batch: Annotated[int, typer.Option(help="Windows in a step.")] = Settings.batch,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = Settings.rate,
    warmup: Annotated[int, typer.Option(help="Steps of warm-up.")] = Settings.warmup,
    decay: Annotated[float, typer.Option(help="Weight decay.")] = Settings.decay,
    seed: Annotated[
        int, typer.Option(help="Seed of the first weights and of the order of windows.")
    ] = Settings.seed,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Train a small Llama and its tokenizer on a text."""
    given = locals()
    settings = Settings(**{field.name: given[field.name] for field in fields(Settings)})
    try:
        facts = train(
            text,
            output,
            settings,
            valid=valid,
            resume=resume,
            save_every=save_every,
            device=device,
        )
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{output}: {json.dumps(facts)}")


if __name__ == "__main__":
    typer.run(main)
