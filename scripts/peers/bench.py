"""Measures all methods alike: one model, one calibration text, one evaluation text, one byte count.

Weights are evaluated dequantised in the original model, in fp32, so that only the weights differ.
Does not quantise; see the other modules of this package.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitstack.calibration.windows import READ_FACTOR
from bitstack.metrics.gap.capacity_gap import capacity_gap
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.matrices import find_matrices
from bitstack.original.matrix import Matrix
from bitstack.original.text import token_ids, windows
from peers.limits import Limits
from peers.remembered import Remembered

HALF = 2  # bytes of a weight that a tool leaves unquantised
_PIECE = 1 << 24  # bytes of a file that are read at once
KL_TOKENS = 10_000  # at the beginning of the evaluation text

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """What is measured, without any path. Rows of the same task can be compared."""

    model: str  # the folder's name
    weights: str  # first 16 hex digits of the SHA-256 of its safetensors files
    calibration: str  # the same of the calibration text
    text: str  # the same of the evaluation text
    tokens: int  # of the evaluation text, at most
    window: int  # tokens of a window of the evaluation, and of its stride
    samples: int  # calibration windows of the tools that calibrate
    length: int  # tokens of a calibration window


@dataclass(frozen=True)
class Row:
    """One point: a method at one size.

    `view` is the comparison it belongs to. `whole` compares bytes of the whole model in memory.
    `linear` compares bits of the linear matrices, with embeddings and head as in the original.
    `both` is for tools that leave embeddings and head dense anyway.
    """

    method: str
    setting: str
    view: str
    bits_per_weight: float  # mean over the quantised weights
    resident_bytes: int  # of the whole model
    nll_per_token: float
    seconds: float  # to quantise, with calibration
    kl_per_token: float | None = None  # KL(original || model) in nats, on KL_TOKENS tokens

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    """An opened model folder with its tokenised texts."""

    def __init__(
        self, folder: Path, calibration: Path, text: Path, work: Path, *,
        tokens: int, window: int, samples: int, length: int, limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.calibration, self.work = folder, calibration, work
        self.limits = limits or Limits()
        # Bytes of the whole model at which a method of ours is measured too, by its name.
        self.sizes: Callable[[str], list[int]] = lambda _: []
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        # Windows as the papers cut them, none with a first token (BOS) that is not the text's.
        self.text = replace(token_ids(str(text), self.tokenizer, max_tokens=tokens), start=None)
        self.task = Task(
            folder.resolve().name, _digest(*sorted(folder.glob("*.safetensors"))),
            _digest(calibration), _digest(text), tokens, window, samples, length,
        )  # fmt: skip

    @cached_property
    def windows(self) -> Tensor:
        """Calibration windows as our recipes draw them, int64 [samples, length]."""
        task = self.task
        limit = READ_FACTOR * task.samples * task.length
        text = token_ids(str(self.calibration), self.tokenizer, max_tokens=limit)
        return windows(text.ids, task.length, count=task.samples, seed=0, start=text.start)

    def fresh(self, dtype: torch.dtype = torch.float32) -> Any:
        """Returns a new copy of the original model, its dense tensors rounded to 16 bits."""
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        linear = {m.parameter for m in find_matrices(model, embeddings=False)}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(False)
            if name not in linear:
                parameter.copy_(parameter.to(self.half).float())
        return model.to(dtype)

    @cached_property
    def half(self) -> torch.dtype:
        """The 16-bit dtype of dense tensors: that of the model, fp16 for a model in 32 bits."""
        own = AutoModelForCausalLM.from_pretrained(self.folder).dtype
        return own if own.itemsize == HALF else torch.float16

    @cached_property
    def model(self) -> Any:
        """A copy of the original model, whose weights `replaced` changes for a while."""
        return self.fresh()

    @cached_property
    def linear(self) -> list[Matrix]:
        """The matrices that every tool quantises: no embedding, no head."""
        return find_matrices(self.model, embeddings=False)

    @cached_property
    def linear_weights(self) -> int:
        return sum(m.weights for m in self.linear)

    @cached_property
    def dense_bytes(self) -> int:
        """Bytes of everything but the linear matrices, in 16 bits; buffers as they are."""
        linear = {m.parameter for m in self.linear}
        rest = (p for n, p in self.model.named_parameters() if n not in linear)
        return sum(p.numel() * HALF for p in rest) + sum(b.nbytes for b in self.model.buffers())

    def shared(self, name: str, make: Callable[[], Arrays]) -> tuple[Arrays, float]:
        """Returns what several settings of a peer share, and the seconds of making it that no clock
        of this process has seen: none, as it is made here. `name` tells it from others."""
        return make(), 0.0

    def loss(self, model: nn.Module) -> float:
        """Returns the nats per token of the evaluation text."""
        window = self.task.window
        return perplexity(model, self.text, window=window, progress=True).nll_per_token

    @cached_property
    def original(self) -> Any:
        """Another copy of the original model, which is never changed."""
        return Remembered(self.fresh())

    def divergence(self, model: Any) -> float:
        """Returns KL(original || model) in nats per token, on the first KL_TOKENS of the text.

        Two losses on the same text also differ by chance, by about sqrt(2 KL / tokens): of two
        models near the original, KL tells which is nearer where the loss does not.
        """
        text = self.tokenizer.decode(self.text.ids[:KL_TOKENS], skip_special_tokens=True)
        window = self.task.window
        return capacity_gap(self.original, model, self.tokenizer, [text], window=window).whole.kl

    def scored(
        self, method: str, setting: str, view: str, bits: float, size: int, model: Any,
        seconds: float,
    ) -> Row:  # fmt: skip
        """Evaluates `model`; returns its row."""
        if len(self.text.ids) <= KL_TOKENS:  # few logits; loss and KL are of the same windows
            model = Remembered(model)
        loss, kl = self.loss(model), self.divergence(model)
        return Row(method, setting, view, bits, size, loss, seconds, kl)

    @contextmanager
    def replaced(self, weights: Mapping[str, Tensor]) -> Iterator[Any]:
        """Yields the original model with `weights` (by parameter) in place of its own."""
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
        """Returns the row of dequantised linear `weights`, by parameter, that take `size` bytes."""
        assert weights.keys() == {m.parameter for m in self.linear}, "a matrix is left out"
        bits, total = 8 * size / self.linear_weights, self.dense_bytes + size
        with self.replaced(weights) as model:
            return self.scored(method, setting, "both", bits, total, model, seconds)


class Clock:
    """Tells the seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:  # in pieces: a run's peak memory is measured
            while piece := opened.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()[:16]
