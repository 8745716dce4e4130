"""Compresses one small model that was saved in one way, and compares it with its original.

The truth is what transformers' `from_pretrained` computes. Does not make the model; see
`sweep.configs`.
"""

import copy
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import bitstack
from bitstack.compression.inputs import BATCH_TOKENS
from bitstack.container.kv_cache import layer_bytes, layers_of
from bitstack.container.manifest import read_manifest
from bitstack.errors import UserError

# One file in fp32, without text; and what most checkpoints are: parts in bf16, here with files of
# an earlier save beside them, and with text.
WAYS = ("fp32", "bf16 parts, text")
TOKENS = 24
RIGHT, REFUSED, WRONG, CRASHED = "right", "refused", "WRONG", "CRASHED"
# Two batches of windows with a text: what layers are given must be the same for every text.
_QUICK = {
    "num_samples": 2 * BATCH_TOKENS // 32,
    "seq_len": 32,
    "search_sweeps": 0,
    "joint_passes": 0,
}
_NOISE = 0.005  # of every weight, relative: about what all levels together lose
ALLOWED = 4.0  # times the error by that noise
_LEAST = 2e-3  # relative error that products of 8 bits alone may make


@dataclass(frozen=True)
class Trial:
    """How one way ended."""

    way: str
    verdict: str
    detail: str = ""
    share: float = 0.0  # of the parameters that are decomposed
    error: float = 0.0  # median over positions of the logits' relative error
    allowed: float = 0.0


class Difference(Exception):
    """The container is not the model."""


def save(model: PreTrainedModel, folder: Path, way: str) -> None:
    """Saves `model` in one of WAYS."""
    if way == WAYS[0]:
        model.save_pretrained(folder)
        return
    half = copy.deepcopy(model).to(torch.bfloat16)
    largest = max(p.numel() * p.element_size() for p in half.parameters())
    half.save_pretrained(folder, max_shard_size=largest + 1)
    stray = {name: torch.zeros(3, 3) for name in model.state_dict()}
    save_file(stray, folder / "model_old.safetensors")
    save_file(stray, folder / "model-00001-of-00777.safetensors")


def run(folder: Path, way: str, text: Path) -> Trial:
    """Returns how the model that was saved to `folder / way` ends."""
    try:
        return _tried(folder, way, text)
    except UserError as error:
        lines = str(error).splitlines()
        return Trial(way, REFUSED if len(lines) == 1 else CRASHED, lines[0])
    except Difference as error:
        return Trial(way, WRONG, str(error))
    except Exception as error:  # a traceback, whatever it is, is what the sweep looks for
        last = traceback.extract_tb(error.__traceback__)[-1]
        first = (str(error).splitlines() or [""])[0]
        at = f"{Path(last.filename).name}:{last.lineno}"
        return Trial(way, CRASHED, f"{type(error).__name__} at {at}: {first}"[:200])


def _tried(folder: Path, way: str, text: Path) -> Trial:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 300, (2, TOKENS), generator=generator)
    saved, container = folder / way, folder / f"{way}, container"
    original = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval()
    truth = _logits(original, ids)
    stored = AutoModelForCausalLM.from_pretrained(saved).eval()  # in the dtype of the files
    allowed = max(ALLOWED * _error(_logits(_noisy(stored), ids), truth), _LEAST)
    calibration = "none" if way == WAYS[0] else str(text)
    bitstack.compress(saved, container, recipe="fast", calibration=calibration, **_QUICK)
    packed = bitstack.load(container)
    _check_bytes(container, packed)  # before a forward: a model may change its own buffers (CTRL)
    error = _within(_logits(packed, ids), truth, allowed, "the model")
    _check_cache(container, packed)
    bitstack.export(container, folder / f"{way}, export")
    dense = AutoModelForCausalLM.from_pretrained(folder / f"{way}, export").eval()
    _within(_logits(packed, ids), _logits(dense, ids), allowed, "its export")
    share = read_manifest(container).weights / sum(p.numel() for p in original.parameters())
    return Trial(way, RIGHT, "", share, error, allowed)


@torch.no_grad()
def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    logits: Tensor = model(ids, use_cache=False).logits.float()
    return logits


def _error(logits: Tensor, truth: Tensor) -> float:
    """Relative to what tells one token from another. A median: a router may tip over anywhere."""
    truth, logits = (x - x.mean(-1, keepdim=True) for x in (truth, logits))
    return float(((logits - truth).norm(dim=-1) / truth.norm(dim=-1)).median())


def _within(logits: Tensor, truth: Tensor, allowed: float, what: str) -> float:
    error = _error(logits, truth)
    if not error <= allowed:
        raise Difference(f"logits differ from {what}'s by {error:.3g}, allowed {allowed:.3g}")
    return error


@torch.no_grad()
def _noisy(model: Any) -> Any:
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.add_(_NOISE * parameter.square().mean().sqrt() * noise)
    return model


def _check_bytes(container: Path, packed: Any) -> None:
    planned = bitstack.plan(container)[-1].resident_bytes
    real = packed.bitstack.resident_bytes  # counted on the tensors
    if planned != real:
        raise Difference(f"plan says {planned} bytes, loaded are {real}")


@torch.no_grad()
def _check_cache(container: Path, packed: Any) -> None:
    ids = torch.arange(10, 10 + TOKENS)[None]
    real = sum(map(layer_bytes, layers_of(packed(ids, use_cache=True).get("past_key_values"))))
    if bitstack.plan(container)[-1].context is None:
        return  # a cache that cannot be planned is not
    planned = bitstack.plan(container, context=TOKENS)[-1].kv_cache_bytes
    if planned != real:
        raise Difference(f"plan says {planned} bytes of KV cache, they are {real}")
