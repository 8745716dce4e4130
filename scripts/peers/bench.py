"""What all methods share: one model, one calibration text, one evaluation text, one count of bytes.

Weights are evaluated dequantised in the original model, in fp32, so that only the weights differ.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitstack.calibration.windows import READ
from bitstack.metrics.gap.capacity_gap import capacity_gap
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.matrices import Matrix, find_matrices
from bitstack.original.text import Tokens, token_ids, windows

HALF = 2  # bytes of everything a tool leaves unquantised
KL_TOKENS = 10_000


@dataclass(frozen=True)
class Task:
    """What is measured; rows of one task compare. Nothing here is a path."""

    model: str  # the folder's name
    weights: str  # of its safetensors files: first 16 digits of their SHA-256
    calibration: str  # of the calibration text, likewise
    text: str  # of the evaluation text, likewise
    tokens: int  # of it, at most
    window: int  # tokens, and the stride
    samples: int  # calibration windows of the tools that calibrate
    length: int  # tokens of one


@dataclass(frozen=True)
class Row:
    """One point: a method at one size.

    `view` says what it is compared in. `whole`: bytes of everything resident. `linear`: embeddings
    and head as in the original, bits of the other matrices. `both`: tools that leave embeddings
    dense stand in both.
    """

    method: str
    setting: str
    view: str
    bits_per_weight: float  # mean of the decomposed weights: all matrices, or the linear ones
    resident_bytes: int  # the whole model
    nll_per_token: float
    seconds: float  # to quantise, calibration included
    kl_per_token: float | None = None  # from the original, over the first of the text

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    """A model folder opened for measuring, with its texts as tokens."""

    def __init__(
        self, folder: Path, calibration: Path, text: Path, work: Path, *,
        tokens: int, window: int, samples: int, length: int,
    ) -> None:  # fmt: skip
        self.folder, self.calibration, self.work = folder, calibration, work
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.text: Tokens = token_ids(str(text), self.tokenizer, max_tokens=tokens)
        self.task = Task(
            folder.resolve().name, _digest(*sorted(folder.glob("*.safetensors"))),
            _digest(calibration), _digest(text), tokens, window, samples, length,
        )  # fmt: skip

    @cached_property
    def windows(self) -> Tensor:
        """Calibration windows as a recipe of ours takes them, int64 [samples, length]."""
        task = self.task
        limit = READ * task.samples * task.length
        ids = token_ids(str(self.calibration), self.tokenizer, max_tokens=limit).ids
        return windows(ids, task.length, count=task.samples, seed=0)

    def fresh(self, dtype: torch.dtype = torch.float32) -> Any:
        """The original model, dense tensors rounded to 16 bits as every tool keeps them."""
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        linear = {m.parameter for m in find_matrices(model, embeddings=False)}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(False)
            if name not in linear:
                parameter.copy_(parameter.to(self.half).float())
        return model.to(dtype)

    @cached_property
    def half(self) -> torch.dtype:
        """The 16-bit dtype of what stays dense: the model's own, fp16 for a model in 32 bits."""
        own = AutoModelForCausalLM.from_pretrained(self.folder).dtype
        return own if own.itemsize == HALF else torch.float16

    @cached_property
    def model(self) -> Any:
        return self.fresh()

    @cached_property
    def linear(self) -> list[Matrix]:
        """The matrices every tool quantises: no embedding, no head."""
        return find_matrices(self.model, embeddings=False)

    @cached_property
    def linear_weights(self) -> int:
        return sum(m.weights for m in self.linear)

    @cached_property
    def dense_bytes(self) -> int:
        """Everything but the linear matrices, in 16 bits; buffers as they are."""
        taken = {m.parameter for m in self.linear}
        rest = (p for n, p in self.model.named_parameters() if n not in taken)
        return sum(p.numel() * HALF for p in rest) + sum(b.nbytes for b in self.model.buffers())

    def loss(self, model: nn.Module) -> float:
        """Nats per token of the evaluation text."""
        window = self.task.window
        return perplexity(model, self.text, window=window, progress=True).nll_per_token

    @cached_property
    def original(self) -> Any:
        """Another copy of the original model, which stays as it is."""
        return self.fresh()

    def divergence(self, model: Any) -> float:
        """KL(original || model), nats per token of the first KL_TOKENS tokens of the text.

        Two losses on the same text differ by chance too, by about sqrt(2 KL / tokens): where both
        models are near the original, KL alone tells which is nearer.
        """
        text = self.tokenizer.decode(self.text.ids[:KL_TOKENS], skip_special_tokens=True)
        window = self.task.window
        return capacity_gap(self.original, model, self.tokenizer, [text], window=window).whole.kl

    def scored(
        self, method: str, setting: str, view: str, bits: float, size: int, model: Any,
        seconds: float,
    ) -> Row:  # fmt: skip
        """The row of `model`, evaluated."""
        loss, far = self.loss(model), self.divergence(model)
        return Row(method, setting, view, bits, size, loss, seconds, far)

    @contextmanager
    def replaced(self, weights: Mapping[str, Tensor]) -> Iterator[Any]:
        """The original model with some parameters (by name) replaced within this context."""
        kept = {name: self.model.get_parameter(name).clone() for name in weights}
        try:
            for name, value in weights.items():
                assert value.shape == kept[name].shape, name
                self.model.get_parameter(name).copy_(value)
            yield self.model
        finally:
            for name, value in kept.items():
                self.model.get_parameter(name).copy_(value)

    def row(
        self, method: str, setting: str, weights: Mapping[str, Tensor], size: int, seconds: float
    ) -> Row:
        """The point of dequantised linear `weights` (by parameter) that take `size` bytes."""
        assert weights.keys() == {m.parameter for m in self.linear}, "a matrix is left out"
        bits, total = 8 * size / self.linear_weights, self.dense_bytes + size
        with self.replaced(weights) as model:
            return self.scored(method, setting, "both", bits, total, model, seconds)


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start


def _digest(*files: Path) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()[:16]
